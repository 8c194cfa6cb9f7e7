"""Conventions: how the modules of a class are called, keep their state, and what they compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.neuron import Neuron, Parameter
from spikeloom.neurons.trace import Response

if TYPE_CHECKING:
    from spikeloom.modules.circuit import Circuit

__all__ = ["Conventions", "Framework", "carried", "no_circuit"]


def carried(module: Any) -> Neuron | None:
    """The description that a module holds as its attribute ``neuron``; None if it holds none."""
    neuron = getattr(module, "neuron", None)
    return neuron if isinstance(neuron, Neuron) else None


def first_at_rest(module: Any, neuron: Neuron) -> Parameter | None:
    """The membrane potential at rest as its description states it; None without a state."""
    return next(iter(neuron.rest.values()), None)


def no_circuit(module: Any) -> None:
    """What a module holds around a neuron where that is not stated."""


def _no(module: Any) -> bool:
    return False


@dataclass(frozen=True)
class Conventions:
    """How the modules of a class behave; every field has the answer of most modules as default.

    By default, a module holds its description as ``neuron``, takes whole sequences
    ``[T, batch, *]`` and begins each call at rest.

    Attributes:
        is_neuron: Whether they are neurons, and not containers or layers with a sense of time.
        describe: From a module to the description of its neuron, with its present values; None for
            settings that no description has.
        circuit: From a module to the neuron and the weights that it holds around it, see
            :class:`spikeloom.modules.Circuit`; None if it holds none, or for settings of which no
            neuron has a description.
        response: From a module without a description to its sub-threshold filter; None if it is
            not linear.
        takes_steps: Whether a module takes one step ``[batch, *]`` at each call.
        batch_first: Whether its sequences are ``[batch, T, *]``.
        take_sequences: Makes a module take whole sequences, time first, if it can.
        methods: The methods by which it may be called beside ``forward``, and whether each takes
            a whole sequence.
        reset: The name of the method that resets its state; empty if it keeps none.
        keeps_state: Whether a module goes on from where its last call ended, without being handed
            its state.
        begins: From a module and its description to the potential at rest; None without a state.
        decisive: The methods that decide what a module computes: a subclass with one of its own is
            another neuron. None: every method, since the class computes its step itself.
        settings: In words, the settings that ``describe`` asks for.
        written: Whether files can state the neurons that ``describe`` describes.
    """

    is_neuron: bool = True
    describe: Callable[[Any], Neuron | None] = carried
    circuit: Callable[[Any], Circuit | None] = no_circuit
    response: Callable[[Any], Response | None] = lambda module: None
    takes_steps: Callable[[Any], bool] = _no
    batch_first: Callable[[Any], bool] = _no
    take_sequences: Callable[[Any], None] = lambda module: None
    methods: Mapping[str, bool] = field(default_factory=lambda: Fixed({}))
    reset: str = ""
    keeps_state: Callable[[Any], bool] = _no
    begins: Callable[[Any, Neuron], Parameter | None] = first_at_rest
    decisive: frozenset[str] | None = frozenset({"forward"})
    settings: str = ""
    written: bool = True


@dataclass(frozen=True)
class Framework:
    """What is known of a framework as a whole.

    Attributes:
        title: Its name in prose.
        homes: The Python modules that define its modules over time.
        followed: Classes there that only pass signals through the modules inside them.
    """

    title: str
    homes: tuple[str, ...]
    followed: tuple[type, ...]
