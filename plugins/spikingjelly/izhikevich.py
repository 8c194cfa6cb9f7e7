"""IzhikevichNode under SpikingJelly's name, on our kernel."""

from __future__ import annotations

from typing import Any

from spikingjelly.activation_based import neuron as host
from torch import Tensor, nn

from spikeloom import neurons

from ..adapter import component, description_of
from .integrate_and_fire import HostFires, IntegrateAndFireNode, native_node
from .native import COUNTERPARTS
from .node import SpikeloomNode

__all__ = ["IzhikevichNode"]


class HostFiredIzhikevich(HostFires, neurons.Izhikevich):
    """Izhikevich that fires through a SpikingJelly function."""


@component("Izhikevich", "E. M. Izhikevich, Simple Model of Spiking Neurons, 2003")
class IzhikevichNode(IntegrateAndFireNode, host.IzhikevichNode):
    r"""Izhikevich's neuron, a drop-in for ``spikingjelly...neuron.IzhikevichNode``.

    :class:`spikeloom.neurons.Izhikevich` has the equations. Spikes and potentials equal the host's
    bit for bit for float32 and float64 inputs. It is a subclass of the host's, and its arguments
    can be read and changed as attributes. Potentials of 16-bit inputs are float32 here.

    Args:
        tau: Membrane time constant in steps, at least 1; also a tensor or Parameter.
        v_c: Critical potential.
        a0: Quadratic coefficient, positive.
        v_threshold: Threshold, positive; a number or a tensor.
        v_reset: Potential after a hard reset and where it begins; None resets by subtraction.
        v_rest: Resting potential.
        w_rest: Where the adaptation current begins.
        tau_w: Time constant of the adaptation current in steps.
        a: How far the potential drives the adaptation current.
        b: What a spike adds to it.
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
        >>> from spikeloom.plugins.spikingjelly import IzhikevichNode
        >>> node = IzhikevichNode(a=0.5, b=0.5, step_mode="m")
        >>> node(torch.full((6, 1), 2.0)).flatten()
        tensor([0., 1., 0., 0., 1., 0.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.IzhikevichNode``.
    """

    _own, _host_fired = neurons.Izhikevich, HostFiredIzhikevich

    def __init__(
        self,
        tau: float | Tensor = 2.0,
        v_c: float | Tensor = 0.8,
        a0: float | Tensor = 1.0,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_rest: float | Tensor = -0.1,
        w_rest: float = 0.0,
        tau_w: float | Tensor = 2.0,
        a: float | Tensor = 0.0,
        b: float | Tensor = 0.0,
        surrogate_function: Any = None,
        detach_reset: bool = False,
        step_mode: str = "s",
        store_v_seq: bool = False,
        implementation: str = "auto",
    ) -> None:
        super().__init__(
            {
                "tau": tau,
                "v_c": v_c,
                "a0": a0,
                "v_threshold": v_threshold,
                "v_reset": v_reset,
                "v_rest": v_rest,
                "w_rest": w_rest,
                "tau_w": tau_w,
                "a": a,
                "b": b,
                "surrogate_function": surrogate_function,
                "detach_reset": detach_reset,
            },
            step_mode=step_mode,
            store_v_seq=store_v_seq,
            implementation=implementation,
        )


@description_of(host.IzhikevichNode, written=False)
def _described(node: Any) -> neurons.Izhikevich:
    charge = (float(node.tau), node.v_c, node.a0)
    adapts = (node.w_rest, float(node.tau_w), node.a, node.b)
    return neurons.Izhikevich(*charge, node.v_threshold, node.v_reset, node.v_rest, *adapts)


@COUNTERPARTS.of(neurons.Izhikevich, HostFiredIzhikevich)
def _native(module: SpikeloomNode) -> nn.Module:
    neuron: Any = module.neuron
    names = ("tau", "v_c", "a0", "v_rest", "tau_w", "a", "b")
    return native_node(module, host.IzhikevichNode, *names, w_rest=neuron.w_rest)
