"""LIFNode and IFNode under SpikingJelly's names, on our kernel."""

from __future__ import annotations

from typing import Any

from spikingjelly.activation_based import neuron as host
from torch import Tensor, nn

from spikeloom import neurons

from ..adapter import component, description_of
from ..native import Differs
from .integrate_and_fire import HostFires, IntegrateAndFireNode, firing_of
from .native import COUNTERPARTS, number_of
from .node import SpikeloomNode

__all__ = ["IFNode", "LIFNode", "SimpleLIFNode"]


class HostFiredLIF(HostFires, neurons.LIF):
    """LIF that fires through a SpikingJelly function."""


class HostFiredIF(HostFires, neurons.IF):
    """IF that fires through a SpikingJelly function."""


@component("LIF", "W. Gerstner and W. M. Kistler, Spiking Neuron Models, 2002")
class LIFNode(IntegrateAndFireNode, host.LIFNode):
    r"""Leaky integrate-and-fire, a drop-in for ``spikingjelly...neuron.LIFNode``.

    .. math::
        h[t] &= v[t-1] + \bigl(x[t] - (v[t-1] - v_\mathrm{reset})\bigr) / \tau \\
        s[t] &= \Theta(h[t] - \theta) \\
        v[t] &= h[t] - s[t]\,\theta \quad\text{(soft)}\qquad
        v[t] = (1 - s[t])\,h[t] + s[t]\,v_\mathrm{reset} \quad\text{(hard)}

    It is a subclass of the host's, and the host's operation counters and energy estimates say of it
    what they say of the host's. The arguments can be read and changed as attributes. Spikes and
    potentials equal the host's bit for bit for float32 and float64 inputs. Potentials of 16-bit
    inputs, also under autocast, are float32 here and 16-bit in the host, where some spikes
    therefore differ.

    Args:
        tau: Membrane time constant in steps, at least 1. Unlike the host's, it may be a tensor
            or Parameter: shared if 0-d, otherwise per neuron, broadcast against ``x.shape[1:]``.
        decay_input: Divide the input by tau too.
        v_threshold: Threshold, a positive number or a tensor like ``tau``.
        v_reset: Potential after a hard reset and at rest; None resets by subtraction.
        surrogate_function: One of SpikingJelly's, by default ``Sigmoid()``, or one of
            :mod:`spikeloom.neurons.surrogate`. A function without a counterpart among ours, or
            with ``spiking=False``, runs itself, step by step; ``implementation_reason`` says so.
        detach_reset: Cut the gradient through the reset.
        step_mode: ``"s"`` or ``"m"``.
        store_v_seq: Keep the potential after every step as ``v_seq``.
        implementation: ``"auto"``, ``"cupy"``, ``"llvm"`` or ``"eager"``.

    Shape:
        - Input and output: ``[N, *]`` in step mode "s", ``[T, N, *]`` in "m".

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If tau < 1, a threshold is not positive, or a value is not finite.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.spikingjelly import LIFNode
        >>> node = LIFNode(tau=2.0, v_reset=None, step_mode="m")
        >>> node(torch.full((5, 1), 1.6)).flatten()
        tensor([0., 1., 0., 1., 0.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.LIFNode``.
    """

    _own, _host_fired = neurons.LIF, HostFiredLIF

    def __init__(
        self,
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


@component("IF", "W. Gerstner and W. M. Kistler, Spiking Neuron Models, 2002")
class IFNode(IntegrateAndFireNode, host.IFNode):
    r"""Integrate-and-fire without leak, a drop-in for ``spikingjelly...neuron.IFNode``.

    .. math:: h[t] = v[t-1] + x[t]

    It fires and resets as :class:`LIFNode`, whose arguments mean the same here.

    Args:
        v_threshold: Threshold, a positive number or a tensor.
        v_reset: Potential after a hard reset and at rest; None resets by subtraction.
        surrogate_function: As for :class:`LIFNode`.
        detach_reset: Cut the gradient through the reset.
        step_mode: ``"s"`` or ``"m"``.
        store_v_seq: Keep the potential after every step as ``v_seq``.
        implementation: ``"auto"``, ``"cupy"``, ``"llvm"`` or ``"eager"``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a threshold is not positive, or a value is not finite.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.spikingjelly import IFNode
        >>> IFNode(step_mode="m")(torch.full((4, 1), 0.5)).flatten()
        tensor([0., 1., 0., 1.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.IFNode``.
    """

    _own, _host_fired = neurons.IF, HostFiredIF

    def __init__(
        self,
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
                "v_threshold": v_threshold,
                "v_reset": v_reset,
                "surrogate_function": surrogate_function,
                "detach_reset": detach_reset,
            },
            step_mode=step_mode,
            store_v_seq=store_v_seq,
            implementation=implementation,
        )


@component("LIF", "W. Gerstner and W. M. Kistler, Spiking Neuron Models, 2002")
class SimpleLIFNode(IntegrateAndFireNode):
    """:class:`LIFNode` that begins at 0, a drop-in for ``spikingjelly...neuron.SimpleLIFNode``.

    The host's has no ``store_v_seq`` and no reset by subtraction; this one has both. It is no
    subclass of the host's.

    Args:
        tau: As for :class:`LIFNode`, and so below.
        decay_input: Divide the input by tau too.
        v_threshold: Threshold, positive; a number or a tensor.
        v_reset: Potential after a hard reset; None resets by subtraction.
        surrogate_function: As for :class:`LIFNode`.
        detach_reset: Cut the gradient through the reset.
        step_mode: ``"s"`` or ``"m"``.
        store_v_seq: Keep the potential after every step as ``v_seq``.
        implementation: ``"auto"``, ``"cupy"``, ``"llvm"`` or ``"eager"``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If tau < 1, a threshold is not positive, or a value is not finite.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.spikingjelly import SimpleLIFNode
        >>> SimpleLIFNode(2.0, True, step_mode="m")(torch.full((4, 1), 1.5)).flatten()
        tensor([0., 1., 0., 1.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.SimpleLIFNode``.
    """

    _own, _host_fired = neurons.LIF, HostFiredLIF

    def __init__(
        self,
        tau: float | Tensor,
        decay_input: bool,
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
        self.set_reset_value("v", 0.0)
        self.reset()


@description_of(host.SimpleLIFNode, begins=lambda node, neuron: 0.0)
def _simple_lif(node: Any) -> neurons.LIF:
    return neurons.LIF(
        float(node.tau), node.v_threshold, node.v_reset, decay_input=node.decay_input
    )


@description_of(host.LIFNode)
def _lif(node: Any) -> neurons.LIF:
    return neurons.LIF(
        float(node.tau), node.v_threshold, node.v_reset, decay_input=node.decay_input
    )


@description_of(host.IFNode)
def _if(node: Any) -> neurons.IF:
    return neurons.IF(node.v_threshold, node.v_reset)


@COUNTERPARTS.of(neurons.LIF, HostFiredLIF)
def _native_lif(module: SpikeloomNode) -> nn.Module:
    neuron: Any = module.neuron
    if isinstance(module, SimpleLIFNode):
        return _native_simple(module)
    if "tau" not in neuron.params:
        return _native_if(module)
    tau = number_of(module, "tau")
    if tau <= 1.0:
        raise Differs(f"its tau is {tau}, SpikingJelly's is above 1")
    return host.LIFNode(tau, decay_input=neuron.decay_input, **firing_of(module))


def _native_simple(module: SimpleLIFNode) -> nn.Module:
    if module.store_v_seq or module.v_reset is None:
        raise Differs("SpikingJelly's SimpleLIFNode has no store_v_seq and no reset by subtraction")
    fire = firing_of(module)
    del fire["store_v_seq"]
    tau, decay_input = number_of(module, "tau"), module.decay_input
    return host.SimpleLIFNode(tau=tau, decay_input=decay_input, **fire)


@COUNTERPARTS.of(neurons.IF, HostFiredIF)
def _native_if(module: SpikeloomNode) -> nn.Module:
    return host.IFNode(**firing_of(module))
