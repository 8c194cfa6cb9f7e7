"""What snnTorch's recurrent neurons hold: a neuron, and weights through which its spikes return."""

from __future__ import annotations

from typing import Any

import snntorch
from torch import Tensor, nn

from spikeloom import neurons
from spikeloom.modules import Circuit

from ..adapter import circuit_in

__all__ = ["circuit_of_recurrent"]


def circuit_of_recurrent(module: Any) -> Circuit:
    """The circuit of a module with the attributes of snnTorch's recurrent neurons.

    Args:
        module: An ``RLeaky`` or ``RSynaptic``, snnTorch's own or ours.
    """
    neuron = _neuron(module)
    back: nn.Module | Tensor = module.recurrent if module.all_to_all else module.recurrent.V
    return Circuit(neuron, neuron.params, None, back)


def _neuron(module: Any) -> neurons.Leaky | neurons.Synaptic:
    """The neuron without its connections; what returns is a part of its input."""
    fires = {
        "threshold": module.threshold.detach(),
        "reset_mechanism": module.reset_mechanism,
        "reset_delay": module.reset_delay,
        "graded_spikes_factor": module.graded_spikes_factor.detach(),
    }
    beta = module.beta.detach()
    if hasattr(module, "alpha"):
        return neurons.Synaptic(module.alpha.detach(), beta, **fires)
    if module.reset_mechanism == "zero" and module.reset_delay:
        # Unlike Leaky, it discards the input of the step after a spike, as Synaptic does.
        return neurons.Synaptic(0.0, beta, **fires)
    return neurons.Leaky(beta, **fires)


@circuit_in(snntorch.RLeaky, settings="inhibition=False and state_quant=False")
def _rleaky(module: Any) -> Circuit | None:
    return None if module.inhibition or module.state_quant else circuit_of_recurrent(module)


@circuit_in(snntorch.RSynaptic, settings="inhibition=False, state_quant=False and reset_delay=True")
def _rsynaptic(module: Any) -> Circuit | None:
    # snnTorch 1.0 looks for the spikes of reset_delay=False in an argument, and loses the reset.
    return _rleaky(module) if module.reset_delay else None
