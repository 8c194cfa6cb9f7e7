"""LIAFNode under SpikingJelly's name, on our kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from spikingjelly.activation_based import neuron as host
from torch import Tensor, nn

from spikeloom import neurons
from spikeloom.kernel import vocabulary as words

from ..adapter import component, description_of
from ..native import Differs
from .integrate_and_fire import HostFires, IntegrateAndFireNode
from .native import COUNTERPARTS
from .node import SpikeloomNode

__all__ = ["LIAFNode"]

# torch's functions that a step has a word for.
WORDS: dict[Any, Callable[[Any], Any]] = {
    torch.relu: words.relu,
    nn.functional.relu: words.relu,
    torch.sigmoid: words.sigmoid,
    nn.functional.sigmoid: words.sigmoid,
    torch.tanh: words.tanh,
    nn.functional.tanh: words.tanh,
    torch.abs: words.absolute,
}
MODULES = {nn.ReLU: words.relu, nn.Sigmoid: words.sigmoid, nn.Tanh: words.tanh}


class HostFiredLIAF(HostFires, neurons.LIAF):
    """LIAF whose potential is reset through a SpikingJelly function."""


@component("LIAF", "Z. Wu et al., LIAF-Net, arXiv 2011.06176")
class LIAFNode(IntegrateAndFireNode, host.LIAFNode):
    r"""Leaky integrate and analog fire, a drop-in for ``spikingjelly...neuron.LIAFNode``.

    :class:`spikeloom.neurons.LIAF` has the equations. Outputs and potentials equal the host's bit
    for bit for float32 and float64 inputs, except where ``act`` is sigmoid or tanh, whose last
    digits may differ. relu, sigmoid, tanh and abs of torch have a kernel, as functions and as
    modules; with any other function the node runs step by step, as ``implementation_reason`` says.
    In step mode "m" SpikingJelly's own sends spikes, whatever the function is; this one sends y.

    Args:
        act: The function of the potential that is sent.
        threshold_related: Whether it sees the potential above the threshold.
        tau: As for :class:`LIFNode`, and so below.
        decay_input: Divide the input by tau too.
        v_threshold: Threshold, positive; a number or a tensor.
        v_reset: Potential after a hard reset and at rest; None resets by subtraction.
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
        >>> from spikeloom.plugins.spikingjelly import LIAFNode
        >>> LIAFNode(torch.relu, False, step_mode="m")(torch.full((3, 1), 1.5)).flatten()
        tensor([0.7500, 1.1250, 0.7500])

    Source: SpikingJelly 2.0, ``activation_based.neuron.LIAFNode``.
    """

    _own, _host_fired = neurons.LIAF, HostFiredLIAF

    def __init__(
        self,
        act: Callable[[Any], Any],
        threshold_related: bool,
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
                "act": act,
                "threshold_related": threshold_related,
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

    @classmethod
    def _description(cls, settings: dict[str, Any]) -> Any:
        return super()._description({**settings, "act": _word(settings["act"])})


def _word(act: Any) -> Any:
    """The word of a step that a function of torch is, or the function."""
    return MODULES.get(type(act)) or (WORDS.get(act, act) if callable(act) else act)


@description_of(host.LIAFNode, written=False)
def _described(node: Any) -> neurons.LIAF | None:
    if node.step_mode == "m":  # it sends spikes then
        return None
    own = (_word(node.act), node.threshold_related, float(node.tau))
    return neurons.LIAF(*own, node.v_threshold, node.v_reset, node.decay_input)


@COUNTERPARTS.of(neurons.LIAF, HostFiredLIAF)
def _native(module: SpikeloomNode) -> nn.Module:
    raise Differs(
        "SpikingJelly's LIAFNode sends spikes in step mode 'm', whatever its function is; make a "
        "host.LIAFNode yourself to run it in step mode 's'"
    )
