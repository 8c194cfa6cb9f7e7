"""CUBALIFNode under SpikingJelly's name, on our kernel."""

from __future__ import annotations

from typing import Any

from spikingjelly.activation_based import neuron as host
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

from spikeloom import neurons

from ..adapter import component, description_of
from ..native import Differs
from .integrate_and_fire import HostFires, IntegrateAndFireNode, firing_of
from .native import COUNTERPARTS, number_of
from .node import SpikeloomNode

__all__ = ["CUBALIFNode"]


class HostFiredCurrentLIF(HostFires, neurons.CurrentLIF):
    """CurrentLIF that fires through a SpikingJelly function."""


@component("LIF", "W. Gerstner and W. M. Kistler, Spiking Neuron Models, 2002")
class CUBALIFNode(IntegrateAndFireNode, host.CUBALIFNode):
    r"""LIF behind a synaptic current, a drop-in for ``spikingjelly...neuron.CUBALIFNode``.

    :class:`spikeloom.neurons.CurrentLIF` has the equations. Spikes, potentials and currents equal
    the host's bit for bit for float32 and float64 inputs. It is a subclass of the host's, and its
    arguments can be read and changed as attributes. States of 16-bit inputs are float32 here.

    Args:
        c_decay: Decay of the current a step, in [0, 1]; also a tensor or Parameter.
        v_decay: Decay of the potential a step, likewise.
        v_threshold: Threshold, positive; a number or a tensor.
        v_reset: Potential after a hard reset and where it begins; None resets by subtraction.
        surrogate_function: As for :class:`LIFNode`; by default ``Rect()``.
        detach_reset: Cut the gradient through the reset.
        step_mode: ``"s"`` or ``"m"``.
        store_v_seq: Keep the potential after every step as ``v_seq``.
        implementation: ``"auto"``, ``"cupy"``, ``"llvm"`` or ``"eager"``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.spikingjelly import CUBALIFNode
        >>> node = CUBALIFNode(step_mode="m")
        >>> node(torch.full((4, 1), 0.3)).flatten()
        tensor([0., 1., 1., 1.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.CUBALIFNode``.
    """

    _own, _host_fired = neurons.CurrentLIF, HostFiredCurrentLIF

    def __init__(
        self,
        c_decay: float | Tensor = 0.5,
        v_decay: float | Tensor = 0.75,
        v_threshold: float | Tensor = 0.5,
        v_reset: float | None = 0.0,
        surrogate_function: Any = None,
        *,
        detach_reset: bool = False,
        step_mode: str = "s",
        store_v_seq: bool = False,
        implementation: str = "auto",
    ) -> None:
        super().__init__(
            {
                "c_decay": c_decay,
                "v_decay": v_decay,
                "v_threshold": v_threshold,
                "v_reset": v_reset,
                "surrogate_function": surrogate_function or surrogate.Rect(),
                "detach_reset": detach_reset,
            },
            step_mode=step_mode,
            store_v_seq=store_v_seq,
            implementation=implementation,
        )


@description_of(host.CUBALIFNode)
def _described(node: Any) -> neurons.CurrentLIF:
    return neurons.CurrentLIF(
        float(node.c_decay), float(node.v_decay), node.v_threshold, node.v_reset
    )


@COUNTERPARTS.of(neurons.CurrentLIF, HostFiredCurrentLIF)
def _native(module: SpikeloomNode) -> nn.Module:
    decays = {name: number_of(module, name) for name in ("c_decay", "v_decay")}
    fire = firing_of(module)
    habits = {name: fire.pop(name) for name in ("detach_reset", "step_mode", "store_v_seq")}
    try:
        native = host.CUBALIFNode(**decays, **fire)
    except AssertionError:
        raise Differs("SpikingJelly's CUBALIFNode refuses its v_threshold") from None
    for name, value in habits.items():  # no arguments of SpikingJelly's, but attributes
        setattr(native, name, value)
    return native
