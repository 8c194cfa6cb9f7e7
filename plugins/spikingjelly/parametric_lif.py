"""ParametricLIFNode under SpikingJelly's name, on our kernel."""

from __future__ import annotations

import math
from typing import Any

import torch
from spikingjelly.activation_based import neuron as host
from torch import Tensor, nn

from spikeloom import neurons

from ..adapter import component, description_of
from ..native import Differs
from .integrate_and_fire import HostFires, IntegrateAndFireNode, firing_of
from .native import COUNTERPARTS, number_of
from .node import SpikeloomNode

__all__ = ["ParametricLIFNode"]


class HostFiredParametricLIF(HostFires, neurons.ParametricLIF):
    """ParametricLIF that fires through a SpikingJelly function."""


def _described_rate(rate: Tensor) -> Tensor:
    """A computed rate as its description can hold it; each call brings the rate itself.

    It is cut from its graph, which could not be copied, and above 0, to which it rounds for a very
    long time constant.
    """
    return rate.detach().clamp_min(torch.finfo(rate.dtype).tiny)


@component("PLIF", "W. Fang et al., Incorporating Learnable Membrane Time Constant, ICCV 2021")
class ParametricLIFNode(IntegrateAndFireNode, host.ParametricLIFNode):
    r""":class:`LIFNode` with one learned time constant, as SpikingJelly parametrises it.

    .. math::
        h[t] = v[t-1] + \bigl(x[t] - (v[t-1] - v_\mathrm{reset})\bigr)\,\sigma(w),\qquad
        \tau = 1 / \sigma(w)

    ``w`` is the module's parameter, so weights move between this class and SpikingJelly's; another
    Parameter may be put in its place, also one for each neuron. Spikes and potentials equal the
    host's, whatever ``w``, with the reservation about 16-bit inputs in :class:`LIFNode`.

    Args:
        init_tau: Time constant at the start, in steps, above 1.
        decay_input: Divide the input by tau too.
        v_threshold: Threshold, positive.
        v_reset: Potential after a hard reset and at rest; None resets by subtraction.
        surrogate_function: As for :class:`LIFNode`.
        detach_reset: Cut the gradient through the reset.
        step_mode: ``"s"`` or ``"m"``.
        store_v_seq: Keep the potential after every step as ``v_seq``.
        implementation: ``"auto"``, ``"cupy"``, ``"llvm"`` or ``"eager"``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If init_tau <= 1, a threshold is not positive, or a value is not finite.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.spikingjelly import ParametricLIFNode
        >>> node = ParametricLIFNode(init_tau=2.0, step_mode="m")
        >>> node(torch.full((4, 1), 1.5)).detach().flatten()
        tensor([0., 1., 0., 1.])
        >>> list(node.state_dict())
        ['w']

    Source: SpikingJelly 2.0, ``activation_based.neuron.ParametricLIFNode``.
    """

    _own, _host_fired = neurons.ParametricLIF, HostFiredParametricLIF
    _computed = frozenset({"rate", "tau"})

    def __init__(
        self,
        init_tau: float = 2.0,
        decay_input: bool = True,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate_function: Any = None,
        detach_reset: bool = False,
        step_mode: str = "s",
        store_v_seq: bool = False,
        implementation: str = "auto",
    ) -> None:
        if not isinstance(init_tau, (int, float)) or not 1.0 < init_tau < math.inf:
            raise ValueError(
                f"ParametricLIFNode: init_tau must be a number above 1, got {init_tau!r}"
            )
        w = torch.as_tensor(-math.log(init_tau - 1.0))
        super().__init__(
            {
                "rate": _described_rate(w.sigmoid()),
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
        # From here on the rate is computed from w, so that only w is saved and trained.
        del self._buffers["rate"]
        self.w = nn.Parameter(w)

    @property
    def rate(self) -> Tensor:
        """The share of its distance that a potential loses in a step, sigmoid(w)."""
        return self.w.sigmoid()

    @property
    def tau(self) -> Tensor:
        """The time constant in steps, 1 / sigmoid(w)."""
        return 1.0 / self.rate

    def _setting(self, name: str) -> Any:
        value = super()._setting(name)
        return _described_rate(value) if name == "rate" else value

    def _shown(self) -> str:
        given = {name: getattr(self, name) for name in self._names if name != "rate"}
        del given["surrogate_function"]  # shown as a submodule
        others = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return f"tau={float(self.tau.detach()):.6g}, {others}"


@description_of(host.ParametricLIFNode)
def _parametric(node: Any) -> neurons.ParametricLIF:
    rate = node.w.detach().sigmoid()
    return neurons.ParametricLIF(rate, node.v_threshold, node.v_reset, decay_input=node.decay_input)


@COUNTERPARTS.of(neurons.ParametricLIF, HostFiredParametricLIF)
def _native(module: SpikeloomNode) -> nn.Module:
    neuron: Any = module.neuron
    native = host.ParametricLIFNode(decay_input=neuron.decay_input, **firing_of(module))
    if isinstance(w := getattr(module, "w", None), nn.Parameter):
        native.w = w
        return native
    rate = torch.tensor(number_of(module, "rate"))
    native.w = nn.Parameter(rate.logit())
    if not (native.w.isfinite() and native.w.sigmoid() == rate):
        raise Differs(f"its rate is {float(rate)}, of which no w of SpikingJelly's is the logit")
    return native
