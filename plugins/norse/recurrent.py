"""What Norse's modules with weights hold: a neuron, weights into it, and weights back to it."""

from __future__ import annotations

from typing import Any

import norse.torch as host

from spikeloom.modules import Circuit, linear_of

from ..adapter import circuit_in
from .li import described_li
from .lif import described_lif
from .parameters import begins_at_leak

__all__ = ["circuit_of_lif"]


@circuit_in(host.LIFRecurrent, host.LIFRecurrentCell)
def circuit_of_lif(module: Any) -> Circuit:
    """The circuit of one of Norse's recurrent LIF modules.

    Args:
        module: Norse's own.
    """
    neuron = described_lif(module)
    into, back = linear_of(module.input_weights), linear_of(module.recurrent_weights)
    return Circuit(neuron, neuron.params, into, back, begins_at_leak(module, neuron))


@circuit_in(host.LILinearCell)
def _weighted(module: Any) -> Circuit:
    neuron, into = described_li(module), linear_of(module.input_weights)
    return Circuit(neuron, neuron.params, into, None, begins_at_leak(module, neuron))
