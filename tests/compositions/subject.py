"""Subject: a small trained network with what is true of it, said by hand; and the list of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.hosted import to_rest
from tests.matrix.record import call, tensors_of

__all__ = ["SUBJECTS", "Subject", "same", "subject", "tuned"]


@dataclass(frozen=True)
class Subject:
    """A trained network, and the truth about it that no method is asked for.

    Attributes:
        name: As the page calls it.
        why: What it stands for.
        build: Makes the network, the same at every call, trained and in evaluation mode.
        sample: Makes its input.
        layers: Its weight layers, all of which are compressed.
        convert: Turns the compressed network into what is judged; None leaves it as it is.
        real: Weight layers that read real values instead of spikes; None for all.
        multiplies: Modules that multiply real values behind the stem, once what folds is folded.
        folds: Norms that fold into the layer before them.
        batch: How many samples its input holds.
        sequence: Makes of the sample what ``to_nir`` takes.
        nir: What ``to_nir`` has to be told.
        used: From the converted network to its additions and multiplications for one sample, where
            its weights are in no layers.
        state: Whether ``load_compressed`` reads its state into a fresh network; if not, the whole
            network is pickled.
        refused: An end, or an end and how it was compressed -> words of the refusal.
        warned: The same -> words of the one warning.
    """

    name: str
    why: str
    build: Callable[[], nn.Module]
    sample: Callable[[], Any]
    layers: tuple[str, ...]
    convert: Callable[[nn.Module, Any], nn.Module] | None = None
    real: tuple[str, ...] | None = ()
    multiplies: tuple[str, ...] = ()
    folds: tuple[str, ...] = ()
    batch: int = 4
    sequence: Callable[[Any], Any] = lambda sample: sample
    nir: Mapping[str, Any] = field(default_factory=dict)
    used: Callable[[nn.Module], tuple[float, float]] | None = None
    state: bool = True
    refused: Mapping[Any, str] = field(default_factory=dict)
    warned: Mapping[Any, str] = field(default_factory=dict)


SUBJECTS: dict[str, Subject] = {}


def subject(name: str, why: str, **truth: Any) -> Callable[[Callable[[], nn.Module]], Any]:
    """List a network by the function that makes it."""

    def noting(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        assert name not in SUBJECTS, name
        SUBJECTS[name] = Subject(name, why, build, **truth)
        return build

    return noting


def _loss(net: nn.Module, sample: Any) -> Tensor:
    """Something to train for: every other output 1, those between 0."""
    to_rest(net)
    y = tensors_of(call(net, sample))[0]
    return (y - torch.arange(y.shape[-1]) % 2).square().mean()


def tuned(net: nn.Module, sample: Any, steps: int = 2, model: nn.Module | None = None) -> nn.Module:
    """A network after a few steps of training.

    Args:
        net: Changed in place.
        sample: What it is trained on.
        steps: How many.
        model: What is called in its place, such as a wrapper that trains on several processes.
    """
    torch.manual_seed(0)
    with torch.enable_grad():
        optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.05)
        for _ in range(steps):
            optimizer.zero_grad()
            _loss(model or net, sample).backward()
            optimizer.step()
    to_rest(net)
    return net


def same(net: nn.Module) -> nn.Module:
    """A copy at rest."""
    net = copy.deepcopy(net)
    to_rest(net)
    return net
