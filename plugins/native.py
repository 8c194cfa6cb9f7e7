"""Our neurons replaced by a host's own, where both fire the same spikes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from spikeloom.kernel.neuron import Neuron, Parameter, tensor_of
from spikeloom.modules import carried, circuit_of, values_of

from .example import copy_at_rest, example_of, spikes_over_time

__all__ = [
    "Counterparts",
    "Differs",
    "NativeNeurons",
    "NoCounterpart",
    "Unmatched",
    "replaced",
]

Builds = TypeVar("Builds", bound=Callable[..., nn.Module])

STEPS = 50


@dataclass(frozen=True)
class Unmatched:
    """A neuron that a host cannot replace.

    Attributes:
        module: Its name in the network; empty if it is the network.
        kind: Its class.
        reason: What the host has not, or what differs.
    """

    module: str
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.module or 'the network'} ({self.kind}): {self.reason}"


class NoCounterpart(ValueError):
    """Neurons of a network have no exact counterpart in the host; every one is listed.

    Attributes:
        host: The host.
        neurons: Which, and why.
    """

    def __init__(self, host: str, neurons: Sequence[Unmatched]) -> None:
        self.host = host
        self.neurons = tuple(neurons)
        lines = "\n".join(f"  {neuron}" for neuron in self.neurons)
        super().__init__(f"{host} has no neuron that equals\n{lines}")

    def __reduce__(self) -> tuple[type, tuple[str, tuple[Unmatched, ...]]]:
        return type(self), (self.host, self.neurons)


class Differs(Exception):
    """Raised where a host has no such neuron; the message is the reason."""


class Counterparts:
    """How a host's own neurons are made, by the descriptions that they equal.

    Each is stated in the file of the class of ours whose place it takes::

        @COUNTERPARTS.of(neurons.LIF)
        def _native(module):
            return host.LIFNode(module.neuron.settings()["tau"])

    Args:
        host: The host's name, for messages.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._builds: dict[type, Callable[..., nn.Module]] = {}

    def of(self, *kinds: type) -> Callable[[Builds], Builds]:
        """Decorator of the function from a module of ours to the host's own.

        Args:
            kinds: The descriptions; a subclass is another neuron.
        """

        def known(build: Builds) -> Builds:
            self._builds.update(dict.fromkeys(kinds, build))
            return build

        return known

    def __contains__(self, kind: type) -> bool:
        return kind in self._builds

    def __call__(self, module: Any, *how: Any) -> nn.Module:
        """The host's own neuron in the place of a module.

        Args:
            module: Ours.
            how: What else the host's functions ask for.

        Raises:
            Differs: If there is none.
        """
        kind = type(module.neuron)
        if kind not in self._builds:
            raise Differs(f"{self._host} has no {module.neuron.name}")
        return self._builds[kind](module, *how)


@dataclass(frozen=True)
class NativeNeurons:
    """A host's own neurons.

    Attributes:
        host: The host's name, for messages.
        base: The classes of our modules in that host.
        build: From a module of ours to the host's own; raises :class:`Differs`.
        run: From a neuron, ours or the host's, and ``[T, batch, *]`` to its spikes from rest.
    """

    host: str
    base: tuple[type, ...]
    build: Callable[[Any], nn.Module]
    run: Callable[[Any, Tensor], Tensor]


def replaced(
    net: nn.Module, sample: Any, natives: NativeNeurons, stepwise: bool = False
) -> nn.Module:
    """A copy of a network with the host's own neurons.

    Every neuron is run beside the one that takes its place, on random input and on input in
    eighths of its threshold, at which potentials meet it.

    Args:
        net: The network.
        sample: As for :func:`spikeloom.plugins.example.example_of`; None compares the neurons only.
        natives: The host's neurons.
        stepwise: Whether the copy takes steps although the network takes sequences.

    Raises:
        NoCounterpart: If a neuron has none, or spikes differ.
        TypeError: If ``net`` is no module or ``sample`` no tensor.
        ValueError: If the network cannot be copied, or does not run on the sample.
    """
    fresh = copy_at_rest(net)
    found: dict[nn.Module, nn.Module] = {}
    missing = []
    for name, module in _neurons(fresh):
        try:
            found[module] = _counterpart(module, natives)
        except Differs as refusal:
            missing.append(Unmatched(name, type(module).__name__, str(refusal)))
    if missing:
        raise NoCounterpart(natives.host, missing)
    native = _with(fresh, found)
    if sample is not None:
        example = example_of(net, sample, STEPS)
        ours, theirs = (
            spikes_over_time(copy_at_rest(one).eval(), example.sequence, by_steps)
            for one, by_steps in ((net, example.stepwise), (native, example.stepwise or stepwise))
        )
        if reason := _difference(ours, theirs, "the sample"):
            raise NoCounterpart(natives.host, [Unmatched("", type(net).__name__, reason)])
    return native


def _neurons(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in net.named_modules():
        if carried(module) is not None:
            yield name, module


def _counterpart(module: nn.Module, natives: NativeNeurons) -> nn.Module:
    """The host's own neuron, proved to fire the same spikes."""
    if not isinstance(module, natives.base):
        raise Differs(f"it is no module of spikeloom.plugins.{natives.host.lower()}; make it there")
    native = natives.build(module).to(_like(module)).train(module.training)
    for name, x in _drives(module):
        with torch.no_grad():
            ours, theirs = natives.run(module, x), natives.run(native, x)
        if reason := _difference(ours, theirs, name):
            raise Differs(reason)
    return native


def _difference(ours: Tensor, theirs: Tensor, where: str) -> str:
    if ours.shape != theirs.shape:
        return f"on {where} it returns {list(ours.shape)}, the host's {list(theirs.shape)}"
    unequal = int((ours != theirs).sum())
    share = f"{unequal} of {ours.numel()} spikes differ from the host's"
    return f"on {where} {share}" if unequal else ""


def _with(net: nn.Module, found: dict[nn.Module, nn.Module]) -> nn.Module:
    """The network with all such modules exchanged."""
    if net in found:
        return found[net]
    for parent in list(net.modules()):
        for name, child in parent._modules.items():
            if child in found:
                parent._modules[name] = found[child]
    return net


def _drives(module: Any) -> Iterator[tuple[str, Tensor]]:
    """Inputs ``[T, batch, *]``, faint and strong: random ones, and such that meet thresholds."""
    values = values_of(module)
    shapes = [value.shape for value in values.values() if isinstance(value, Tensor) and value.dim()]
    shape = torch.broadcast_shapes(*shapes) if shapes else torch.Size(_input_shape(module))
    strengths = (2.0 ** torch.arange(-3, 8)).reshape(-1, *[1] * len(shape))
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(STEPS, len(strengths), *shape, generator=generator) + 0.5
    draws, unit, like = draws * strengths, _unit(module.neuron, values), _like(module)
    yield "random input", draws.to(like) * unit
    yield "ties", ((draws * 8).round() / 8).to(like) * unit
    if edges := getattr(module.neuron, "boundaries", ()):
        yield "boundaries", torch.tensor(edges).to(like).expand(STEPS, 1, -1)


def _input_shape(module: Any) -> tuple[int, ...]:
    """The shape of a sample that a module takes, where its neuron says nothing about it."""
    circuit = circuit_of(module)
    back: Any = None if circuit is None else circuit.into or circuit.back
    if isinstance(back, nn.Conv2d):
        return (back.in_channels, 5, 5)
    return (back.in_features,) if isinstance(back, nn.Linear) else (16,)


def _like(module: Any) -> Tensor:
    """A tensor of the module's device and precision."""
    tensors = map(tensor_of, values_of(module).values())
    return next((tensor.detach() for tensor in tensors if tensor is not None), torch.empty(()))


def _unit(neuron: Neuron, values: dict[str, Parameter]) -> float | Tensor:
    """What a neuron's input is measured against: a number, or one for each neuron."""
    value = values.get(getattr(neuron, "unit", ""), 1.0)
    tensor = tensor_of(value)
    if tensor is None:
        return abs(float(value)) or 1.0  # type: ignore[arg-type]  # a number
    sizes = tensor.detach().abs()
    sizes = torch.where(sizes > 0, sizes, 1.0)
    return sizes if isinstance(value, Tensor) else sizes.max()
