"""Model: a small network with what is true of it, said by hand; and the list of all of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import spikeloom
from spikeloom import neurons

__all__ = ["MODELS", "SPIKES_ALREADY", "B", "Model", "T", "analog", "currents", "images"]
__all__ += ["lif", "spiking"]

T, B = 4, 3


@dataclass(frozen=True)
class Model:
    """A small network, and the truth about it that no method is asked for.

    Attributes:
        name: Its class, or the function that makes it, as words.
        why: What is particular about it.
        build: Makes the network.
        sample: Makes its input.
        decays: Weight layer that can be compressed -> decay of the membrane behind it.
        time: Weight layer, or "" for all others -> where its input has its steps: ``"first"`` or
            ``"second"`` axis, ``"folded"`` into the batch or ``"folded behind samples"``,
            ``"calls"``, ``"constant"`` where each step reads the same; ``"none"`` where there are
            none, ``"repeated"`` where calls may be some.
        real: Weight layers that read real values instead of spikes; None for all.
        synapses: Counts (accumulates, macs) from the spikes of the neurons, where weights are used
            outside of layers.
        multiplies: Modules that multiply real values behind the stem.
        folds: Norms and pools that can be folded away.
        readout: What a reader of a file does with its output, where the file leaves it to them.
        branches: Whether its forward goes another way on other inputs.
        single: Whether it computes in float32 only.
        grows: How many times its weights are made larger, so that neurons fire.
        batch: How many samples its input holds.
        shape: Steps and samples, where neither neurons nor output tell them.
        refused: Method -> words, the place above all, of the message that refuses the network.
        warned: Method -> words of the one warning that goes with a right result.
        known: Method -> a fault that is known, and not mended yet.
    """

    name: str
    why: str
    build: Callable[[], nn.Module]
    sample: Callable[[], Any]
    decays: Mapping[str, float] = field(default_factory=dict)
    time: Mapping[str, str] = field(default_factory=dict)
    real: tuple[str, ...] | None = ()
    synapses: Callable[[Mapping[str, Tensor]], tuple[float, float]] | None = None
    multiplies: tuple[str, ...] = ()
    folds: tuple[str, ...] = ()
    readout: Callable[[Tensor], Tensor] | None = None
    branches: bool = False
    single: bool = False
    grows: float = 6.0
    batch: int = B
    shape: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    warned: Mapping[str, str] = field(default_factory=dict)
    known: Mapping[str, str] = field(default_factory=dict)

    def made(self) -> tuple[nn.Module, Any]:
        """The network in evaluation mode and its input, the same at every call."""
        torch.manual_seed(0)
        net, sample = self.build().eval(), self.sample()
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(self.grows)
        return net, sample

    def exact(self, net: nn.Module) -> nn.Module:
        """A network in float64, if it can compute in it."""
        return net if self.single else net.double()


MODELS: dict[str, Model] = {}


def _listed(why: str, sample: Callable[[], Any], **truth: Any) -> Callable[[Any], Any]:
    """List a network, a class or a function that makes one, with what is true of it.

    Args:
        why: What is particular about it.
        sample: Makes its input.
        truth: The other attributes of :class:`Model`.
    """

    def noting(build: Any) -> Any:
        words = re.sub(r"(?<=[a-z])([A-Z])", r" \1", build.__name__).replace("_", " ")
        words = re.sub(r" [A-Z](?=[a-z])", lambda first: first[0].lower(), words)
        name = words[0].upper() + words[1:]
        assert name not in MODELS, name
        MODELS[name] = Model(name, why, build, sample, **truth)
        return build

    return noting


# What the two conversions say of neurons, which have a memory.
SPIKES_ALREADY = {"LAS": "neurons, which spike already: ", "SignGD": "knows no spiking form of"}


def spiking(why: str, sample: Callable[[], Any], **truth: Any) -> Callable[[Any], Any]:
    """List a network that spikes already, which both conversions have to refuse."""
    truth["refused"] = {**SPIKES_ALREADY, **truth.get("refused", {})}
    return _listed(why, sample, **truth)


def analog(why: str, sample: Callable[[], Any], **truth: Any) -> Callable[[Any], Any]:
    """List a network without neurons, whose first axis is the batch."""
    truth["refused"] = {"to_nir": "sample: must", **truth.get("refused", {})}
    truth["decays"] = dict.fromkeys(truth.pop("layers", ()), 0.0)
    truth = {"time": {"": "none"}, "shape": {"steps": 1, "batch": 16}, **truth}
    return _listed(why, sample, real=None, batch=16, grows=1.0, **truth)


def lif() -> nn.Module:
    """A leaky neuron whose membrane keeps one half."""
    return spikeloom.SpikingLayer(neurons.LIF())


def currents() -> Tensor:
    """Real input ``[T, B, 4]``."""
    return 2 * torch.rand(T, B, 4)


def images() -> Tensor:
    """Real input ``[T, B, 2, 4, 4]``."""
    return 2 * torch.rand(T, B, 2, 4, 4)
