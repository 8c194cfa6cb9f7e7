"""How a membrane responds below its threshold: the filter that a layer's error passes through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.kernel.neuron import Neuron
from spikeloom.modules import carried, override_of, response_of
from spikeloom.neurons.trace import Response

__all__ = ["Response", "UnknownNeuron", "linear_response"]


class UnknownNeuron(ValueError):
    """A neuron whose decay cannot be read; the message says how to state it."""


def linear_response(unit: Any, dt: float | None = None) -> Response:
    """Read the sub-threshold filter of a neuron.

    Args:
        unit: A neuron module of SpikingJelly, snnTorch, Norse or spikeloom, a description from
            :mod:`spikeloom.neurons`, or a node of a NIR graph.
        dt: Step in seconds, needed for NIR nodes only.

    Returns:
        Its decays and its gain.

    Raises:
        UnknownNeuron: If the class is not known. A subclass of a known class is known as long as it
            overrides no method that computes its step.
        ValueError: If a NIR node comes without dt.

    Example:
        >>> from spikeloom import neurons
        >>> from spikeloom.compress import linear_response
        >>> linear_response(neurons.LIF(tau=4.0))
        Response(decay=0.75, synaptic_decay=None, gain=0.25)
    """
    if type(unit).__module__.partition(".")[0] == "nir":
        response = _of_node(unit, dt)
    else:
        response = response_of(unit)
    if response is None:
        raise UnknownNeuron(
            f"{_shown(unit)}: its decay is not known; state it, for example "
            "calibrate(..., traces={'name of the module': neurons.Trace(0.9)})"
        )
    return response


def _of_node(node: Any, dt: float | None) -> Response | None:
    """The filter of a NIR node, whose time constants are in seconds."""
    if not hasattr(node, "r"):
        return None
    if dt is None:
        raise ValueError("dt: needed for a NIR node, the step in seconds")
    tau, tau_syn = (_inverse(node, names) for names in (("tau", "tau_mem"), ("tau_syn",)))
    if tau is None:
        return Response(1.0)
    filtered = Response.euler(dt, tau, tau_syn)
    resistance = torch.as_tensor(node.r, dtype=torch.float64)
    return Response(filtered.decay, filtered.synaptic_decay, resistance * filtered.gain)


def _inverse(node: Any, names: tuple[str, ...]) -> Tensor | None:
    """The inverse of a time constant, under the first of these names that the node has."""
    found = next((getattr(node, name) for name in names if hasattr(node, name)), None)
    return None if found is None else 1 / torch.as_tensor(found, dtype=torch.float64)


def _shown(unit: Any) -> str:
    if isinstance(unit, nn.Module) and (override := override_of(unit)):
        return f"{type(unit).__name__} {override}"
    neuron = unit if isinstance(unit, Neuron) else carried(unit)
    return type(unit).__name__ if neuron is None else str(neuron)
