"""Three ways to convert a trained network without retraining, for the signGD examples.

fitted       spikeloom: reach and schedule fitted to the calibration data for each T
published    the published chains of nodes, scales and schedule (0.15 * 0.95**t)
rate coding  SpikingJelly's RateCodingRecipe (99.9 %), which knows ReLU only
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom import convert
from spikeloom.neurons import Exponential

__all__ = ["METHODS", "Method", "fitted", "published", "rate_coding"]

# From a network, inputs to calibrate on, inputs to answer, and numbers of steps in rising order, to
# what the conversion says after each of them.
Method = Callable[[nn.Module, Tensor, Tensor, Sequence[int]], Iterator[Any]]


def fitted(model: nn.Module, shown: Tensor, asked: Tensor, steps: Sequence[int]) -> Iterator[Any]:
    for count in steps:
        yield convert.SignGD(count).apply(model, shown)(asked)


def published(
    model: nn.Module, shown: Tensor, asked: Tensor, steps: Sequence[int]
) -> Iterator[Any]:
    method = convert.SignGD(max(steps), Exponential(0.15, 0.95), decompose=True, scale="published")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of values beyond reach: that is the point
        yield from method.apply(model, shown)(asked, at=list(steps))


def rate_coding(
    model: nn.Module, shown: Tensor, asked: Tensor, steps: Sequence[int]
) -> Iterator[Any]:
    from spikingjelly.activation_based import ann2snn, functional

    batches = [(shown, torch.zeros(len(shown)))]
    snn = ann2snn.FXConverter(ann2snn.RateCodingRecipe(batches, mode="99.9%")).convert(model)
    functional.set_step_mode(snn, "s")
    total = torch.zeros(())
    for t in range(1, max(steps) + 1):
        total = total + snn(asked)
        if t in steps:
            yield total / t
    functional.reset_net(snn)


METHODS: dict[str, Method] = {
    "fitted": fitted,
    "published": published,
    "rate coding": rate_coding,
}
