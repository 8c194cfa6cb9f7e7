"""How a network is compressed, with what has to be true of it whatever follows."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spikeloom import compress
from spikeloom.compress.buffers import hold_zeros
from tests.compositions.subject import SUBJECTS, Subject, same, tuned

__all__ = ["COMPRESSIONS", "Compressed", "compressed"]

SPARSITY, BITS = 0.5, 4


@dataclass(frozen=True, eq=False)
class Compressed:
    """A compressed network, as a cell finds it.

    Attributes:
        subject: The network's name and truth.
        how: How it was compressed.
        net: The network that is judged, converted if the subject says so.
        sample: What it takes.
        warning: What compressing it warned of.
    """

    subject: Subject
    how: str
    net: nn.Module
    sample: Any
    warning: str

    @property
    def is_pruned(self) -> bool:
        return self.how != "quantised"

    @property
    def is_quantised(self) -> bool:
        return self.how in ("quantised", "pruned, quantised")


def pruned(net: nn.Module, sample: Any) -> None:
    compress.prune(net, compress.calibrate(net, [sample]), SPARSITY)


def quantised(net: nn.Module, sample: Any) -> None:
    compress.quantize(net, compress.calibrate(net, [sample]), BITS)


def both(net: nn.Module, sample: Any) -> None:
    stats = compress.calibrate(net, [sample])
    compress.prune(net, stats, SPARSITY)
    compress.quantize(net, stats, BITS)


def fine_tuned(net: nn.Module, sample: Any) -> None:
    pruned(net, sample)
    tuned(net.train(), sample).eval()


COMPRESSIONS: dict[str, Callable[[nn.Module, Any], None]] = {
    "pruned": pruned,
    "quantised": quantised,
    "pruned, quantised": both,
    "pruned, fine-tuned": fine_tuned,
}


@functools.cache
def _compressed(name: str, how: str) -> Compressed:
    subject = SUBJECTS[name]
    net, sample = subject.build(), subject.sample()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        COMPRESSIONS[how](net, sample)
    check(subject, net, how)
    if subject.convert is not None:
        net = subject.convert(compress.finish(net), sample)
    warning = "\n".join(str(w.message) for w in caught if w.category is UserWarning)
    return Compressed(subject, how, net, sample, warning)


def compressed(name: str, how: str) -> Compressed:
    """A compressed network of one's own."""
    found = _compressed(name, how)
    return Compressed(found.subject, how, same(found.net), found.sample, found.warning)


def check(subject: Subject, net: nn.Module, how: str) -> None:
    """Every layer was compressed: so many zeros, and each weight a code times its row's step."""
    layers = {name: net.get_submodule(name) for name in subject.layers}
    if how != "quantised":
        zeros = sum(int(layer.weight_mask.sum()) for layer in layers.values())
        assert abs(zeros - SPARSITY * sum(w.weight.numel() for w in layers.values())) < 1
        for layer in layers.values():
            hold_zeros(layer, ())  # as every call of it does
            assert not layer.weight[layer.weight_mask].any()
    if how in ("quantised", "pruned, quantised"):
        for layer in layers.values():
            steps = layer.weight_scale.reshape(-1, *(1,) * (layer.weight.dim() - 1))
            assert torch.equal(layer.weight, steps * layer.weight_codes)
            assert int(layer.weight_codes.abs().max()) <= 2 ** (BITS - 1)
