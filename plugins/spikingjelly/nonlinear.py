"""QIFNode and EIFNode under SpikingJelly's names, on our kernel."""

from __future__ import annotations

from typing import Any

from spikingjelly.activation_based import neuron as host
from torch import Tensor, nn

from spikeloom import neurons

from ..adapter import component, description_of
from .integrate_and_fire import HostFires, IntegrateAndFireNode, native_node
from .native import COUNTERPARTS
from .node import SpikeloomNode

__all__ = ["EIFNode", "QIFNode"]


class HostFiredQIF(HostFires, neurons.QIF):
    """QIF that fires through a SpikingJelly function."""


@component("QIF", "W. Gerstner and W. M. Kistler, Spiking Neuron Models, 2002")
class QIFNode(IntegrateAndFireNode, host.QIFNode):
    r"""Quadratic integrate-and-fire, a drop-in for ``spikingjelly...neuron.QIFNode``.

    :class:`spikeloom.neurons.QIF` has the equations. Spikes and potentials equal the host's bit for
    bit for float32 and float64 inputs. It is a subclass of the host's, and its arguments can be
    read and changed as attributes. Potentials of 16-bit inputs are float32 here.

    Args:
        tau: Membrane time constant in steps, at least 1; also a tensor or Parameter.
        v_c: Critical potential.
        a0: Quadratic coefficient, positive.
        v_threshold: Threshold, positive; a number or a tensor.
        v_rest: Resting potential.
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
        >>> from spikeloom.plugins.spikingjelly import QIFNode
        >>> QIFNode(step_mode="m")(torch.full((5, 1), 1.5)).flatten()
        tensor([0., 1., 0., 1., 0.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.QIFNode``.
    """

    _own, _host_fired = neurons.QIF, HostFiredQIF

    def __init__(
        self,
        tau: float | Tensor = 2.0,
        v_c: float | Tensor = 0.8,
        a0: float | Tensor = 1.0,
        v_threshold: float | Tensor = 1.0,
        v_rest: float | Tensor = 0.0,
        v_reset: float | None = -0.1,
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
                "v_rest": v_rest,
                "v_reset": v_reset,
                "surrogate_function": surrogate_function,
                "detach_reset": detach_reset,
            },
            step_mode=step_mode,
            store_v_seq=store_v_seq,
            implementation=implementation,
        )


class HostFiredEIF(HostFires, neurons.EIF):
    """EIF that fires through a SpikingJelly function."""


@component("EIF", "W. Gerstner and W. M. Kistler, Spiking Neuron Models, 2002")
class EIFNode(IntegrateAndFireNode, host.EIFNode):
    r"""Exponential integrate-and-fire, a drop-in for ``spikingjelly...neuron.EIFNode``.

    :class:`spikeloom.neurons.EIF` has the equations. Its exponential function and the host's may
    differ in the last digits, so that a spike may differ where a potential meets the threshold. It
    is a subclass of the host's, and its arguments can be read and changed as attributes. Potentials
    of 16-bit inputs are float32 here.

    Args:
        tau: Membrane time constant in steps, at least 1; also a tensor or Parameter.
        delta_T: Sharpness, positive.
        theta_rh: Rheobase threshold.
        v_threshold: Threshold, positive; a number or a tensor.
        v_rest: Resting potential.
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
        >>> from spikeloom.plugins.spikingjelly import EIFNode
        >>> EIFNode(step_mode="m")(torch.full((5, 1), 1.0)).flatten()
        tensor([0., 1., 0., 1., 0.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.EIFNode``.
    """

    _own, _host_fired = neurons.EIF, HostFiredEIF

    def __init__(
        self,
        tau: float | Tensor = 2.0,
        delta_T: float | Tensor = 1.0,
        theta_rh: float | Tensor = 0.8,
        v_threshold: float | Tensor = 1.0,
        v_rest: float | Tensor = 0.0,
        v_reset: float | None = -0.1,
        surrogate_function: Any = None,
        detach_reset: bool = False,
        step_mode: str = "s",
        store_v_seq: bool = False,
        implementation: str = "auto",
    ) -> None:
        super().__init__(
            {
                "tau": tau,
                "delta_T": delta_T,
                "theta_rh": theta_rh,
                "v_threshold": v_threshold,
                "v_rest": v_rest,
                "v_reset": v_reset,
                "surrogate_function": surrogate_function,
                "detach_reset": detach_reset,
            },
            step_mode=step_mode,
            store_v_seq=store_v_seq,
            implementation=implementation,
        )


@description_of(host.QIFNode, written=False)
def _qif(node: Any) -> neurons.QIF:
    charge = (float(node.tau), node.v_c, node.a0)
    return neurons.QIF(*charge, node.v_threshold, node.v_rest, node.v_reset)


@description_of(host.EIFNode, written=False)
def _eif(node: Any) -> neurons.EIF:
    charge = (float(node.tau), node.delta_T, node.theta_rh)
    return neurons.EIF(*charge, node.v_threshold, node.v_rest, node.v_reset)


@COUNTERPARTS.of(neurons.QIF, HostFiredQIF)
def _native_qif(module: SpikeloomNode) -> nn.Module:
    return native_node(module, host.QIFNode, "tau", "v_c", "a0", "v_rest")


@COUNTERPARTS.of(neurons.EIF, HostFiredEIF)
def _native_eif(module: SpikeloomNode) -> nn.Module:
    return native_node(module, host.EIFNode, "tau", "delta_T", "theta_rh", "v_rest")
