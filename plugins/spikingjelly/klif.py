"""KLIFNode under SpikingJelly's name, on our kernel."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based import neuron as host
from torch import Tensor, nn

from spikeloom import neurons
from spikeloom.modules import values_of

from ..adapter import component, description_of
from .integrate_and_fire import HostFires, IntegrateAndFireNode, native_node
from .native import COUNTERPARTS, number_of
from .node import SpikeloomNode

__all__ = ["KLIFNode"]


class HostFiredKLIF(HostFires, neurons.KLIF):
    """KLIF that fires through a SpikingJelly function."""


@component("KLIF", "C. Jiang and Y. Zhang, KLIF, arXiv 2302.09238")
class KLIFNode(IntegrateAndFireNode, host.KLIFNode):
    r"""LIF with a learned scale, a drop-in for ``spikingjelly...neuron.KLIFNode``.

    ``k`` is the module's parameter, 1 at first. :class:`spikeloom.neurons.KLIF` has the equations.
    Spikes and potentials equal the host's bit for bit for float32 and float64 inputs. It is a
    subclass of the host's, and its arguments can be read and changed as attributes. Potentials of
    16-bit inputs are float32 here.

    Args:
        scale_reset: Divide by k before the reset.
        tau: Membrane time constant in steps, at least 1; also a tensor or Parameter.
        decay_input: Divide the input by tau too.
        v_threshold: Threshold, positive; a number or a tensor.
        v_reset: Potential after a hard reset and where it begins; None resets by subtraction.
        surrogate_function: As for :class:`LIFNode`.
        detach_reset: Cut the gradient through the reset.
        step_mode: ``"s"`` or ``"m"``.
        store_v_seq: Keep the potential after every step as ``v_seq``.
        implementation: ``"auto"``, ``"cupy"``, ``"llvm"`` or ``"eager"``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.spikingjelly import KLIFNode
        >>> node = KLIFNode(step_mode="m")
        >>> node(torch.full((4, 1), 1.5)).detach().flatten()
        tensor([0., 1., 0., 1.])
        >>> list(node.state_dict())
        ['k']

    Source: SpikingJelly 2.0, ``activation_based.neuron.KLIFNode``.
    """

    _own, _host_fired = neurons.KLIF, HostFiredKLIF

    def __init__(
        self,
        scale_reset: bool = False,
        tau: float | Tensor = 2.0,
        decay_input: bool = True,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        surrogate_function: Any = None,
        detach_reset: bool = False,
        step_mode: str = "s",
        store_v_seq: bool = False,
        implementation: str = "auto",
    ) -> None:
        super().__init__(
            {
                "k": nn.Parameter(torch.as_tensor(1.0)),
                "scale_reset": scale_reset,
                "tau": tau,
                "decay_input": decay_input,
                "v_threshold": v_threshold,
                "v_reset": v_reset,
                "surrogate_function": surrogate_function,
                "detach_reset": detach_reset,
            },
            step_mode=step_mode,
            store_v_seq=store_v_seq,
            implementation=implementation,
        )


@description_of(host.KLIFNode, written=False)
def _described(node: Any) -> neurons.KLIF:
    leak = (node.k.detach(), node.scale_reset, float(node.tau), node.decay_input)
    return neurons.KLIF(*leak, node.v_threshold, node.v_reset)


@COUNTERPARTS.of(neurons.KLIF, HostFiredKLIF)
def _native(module: SpikeloomNode) -> nn.Module:
    neuron: Any = module.neuron
    others = {"decay_input": neuron.decay_input, "scale_reset": neuron.scale_reset}
    native = native_node(module, host.KLIFNode, "tau", **others)
    k = values_of(module)["k"]
    native.k = (
        k if isinstance(k, nn.Parameter) else nn.Parameter(torch.tensor(number_of(module, "k")))
    )
    return native
