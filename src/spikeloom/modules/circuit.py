"""Circuit: a neuron and the weights that its module holds around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from spikeloom.kernel.neuron import Neuron, Parameter
from spikeloom.modules.identity import neuron_of, override_of, values_of
from spikeloom.modules.registry import conventions_of

__all__ = ["Circuit", "circuit_of", "linear_of", "neuron_within"]


@dataclass(frozen=True)
class Circuit:
    r"""What a module with weights around a neuron computes.

    .. math::
        s[t], v[t] = \mathrm{neuron}(W_\mathrm{into}\,x[t] + W_\mathrm{back}\,s[t-1], v[t-1])

    Attributes:
        neuron: The neuron; it has one input.
        values: Its parameters with their present values.
        into: The layer through which the input reaches it; None: as it is.
        back: The layer through which its spikes return at the next step, from :math:`s[-1] = 0`
            on; a tensor is a weight of each neuron back to itself; None: nothing returns.
        begins: Where its potential begins; None: where the neuron says.
    """

    neuron: Neuron
    values: Mapping[str, Parameter]
    into: nn.Linear | None
    back: nn.Module | Tensor | None
    begins: Parameter | None = None

    @classmethod
    def around(
        cls, module: nn.Module, into: nn.Linear | None, back: nn.Module | Tensor
    ) -> Circuit | None:
        """The circuit around a module that is a neuron; None if it has no description.

        Args:
            module: The neuron's module.
            into: As for the class.
            back: As for the class.
        """
        neuron, conventions = neuron_of(module), conventions_of(module)
        if neuron is None or conventions is None:
            return None
        return cls(neuron, values_of(module), into, back, conventions.begins(module, neuron))


def circuit_of(module: Any) -> Circuit | None:
    """The circuit that a module is; None if it is none, or computes something beside it.

    Args:
        module: Any module.
    """
    conventions = conventions_of(module)
    if conventions is None or override_of(module):
        return None
    return conventions.circuit(module)


def neuron_within(module: Any) -> Neuron | None:
    """The neuron that a module is, or that is inside the circuit that it is.

    Args:
        module: Any module.
    """
    circuit = circuit_of(module)
    return neuron_of(module) if circuit is None else circuit.neuron


def linear_of(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear layer of present values.

    Args:
        weight: ``[outputs, inputs]``.
        bias: ``[outputs]`` or None.
    """
    outputs, inputs = weight.shape
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer
