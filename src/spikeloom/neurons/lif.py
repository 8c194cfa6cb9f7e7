"""Leaky integrate-and-fire neurons, in the forms that the frameworks compute.

The forms agree in exact arithmetic for matching parameters; they differ in the order of operations
and of reset and output, so each framework's spikes are met bit for bit by its own form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import POSITIVE, Rule
from spikeloom.kernel.vocabulary import Surrogate, clamp, detach, fire
from spikeloom.neurons.arguments import (
    checked_choice,
    checked_number,
    checked_surrogate,
    checked_value,
)
from spikeloom.neurons.described import Described
from spikeloom.neurons.surrogate import ATan, Sigmoid, SuperSpike
from spikeloom.neurons.trace import Response

__all__ = ["IF", "LIF", "LIFBox", "Leaky", "ParametricLIF"]


class _IntegrateAndFire(Described):
    """How SpikingJelly's neurons fire and reset; a subclass says how they charge.

    Args:
        leak: The parameters of the charge.
        v_threshold: Threshold.
        v_reset: Potential after a hard reset and at rest; None resets by subtraction.
        decay_input: Whether the input leaks too.
        detach_reset: Cut the gradient through the reset.
        surrogate: The derivative of a spike.
        fires_at_threshold: Fire at the threshold, not only above it.
    """

    rules = Fixed({"v_threshold": POSITIVE})

    def __init__(
        self,
        leak: dict[str, Any],
        v_threshold: float | Tensor,
        v_reset: float | None,
        decay_input: bool,
        detach_reset: bool,
        surrogate: Surrogate | None,
        fires_at_threshold: bool,
    ) -> None:
        name = type(self).__name__
        self.v_reset = None if v_reset is None else _reset_potential(name, v_reset)
        self.decay_input = bool(decay_input)
        self.detach_reset = bool(detach_reset)
        self.surrogate = checked_surrogate(name, surrogate, Sigmoid())
        self.fires_at_threshold = bool(fires_at_threshold)
        super().__init__(
            self._step,
            state={"v": self.v_reset or 0.0},
            params={**leak, "v_threshold": v_threshold},
            name=name,
        )

    def _charge(self, x: Any, v: Any, p: Any) -> Any:
        """The potential before the spike."""
        above = v - self.v_reset if self.v_reset else v
        if self.decay_input:
            return v + self._share(x - above, p)
        return v - self._share(above, p) + x

    def _share(self, difference: Any, p: Any) -> Any:
        """What a step closes of the distance between two potentials."""
        raise NotImplementedError

    def _fire(self, u: Any) -> Any:
        return fire(u, self.surrogate, strict=not self.fires_at_threshold)

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        (v,) = state
        h = self._charge(x, v, p)
        s = self._fire(h - p.v_threshold)
        reset = detach(s) if self.detach_reset else s
        if self.v_reset is None:
            return s, (h - reset * p.v_threshold,)
        return s, ((1.0 - reset) * h + reset * self.v_reset,)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {
            "v_threshold": self.params["v_threshold"],
            "v_reset": self.v_reset,
            "decay_input": self.decay_input,
            "detach_reset": self.detach_reset,
            "surrogate": self.surrogate,
            "fires_at_threshold": self.fires_at_threshold,
        }


class LIF(_IntegrateAndFire):
    r"""Leaky integrate-and-fire, as SpikingJelly computes it.

    .. math::
        h[t] &= v[t-1] + \bigl(x[t] - (v[t-1] - v_\mathrm{reset})\bigr) / \tau \\
        s[t] &= \Theta(h[t] - \theta) \\
        v[t] &= h[t] - s[t]\,\theta \quad\text{(soft)}\qquad
        v[t] = (1 - s[t])\,h[t] + s[t]\,v_\mathrm{reset} \quad\text{(hard)}

    Without ``decay_input`` the input is not divided:
    ``h = v - (v - v_reset) / tau + x``. With ``tau=None`` nothing leaks: ``h = v + x``.

    Args:
        tau: Membrane time constant in steps, at least 1; a tensor (a Parameter to learn it) is
            shared when 0-d and per neuron otherwise; None for a neuron without leak. Training
            may carry a learned tau below 1, where the potential grows without bound; see
            :ref:`learned-time-constants` for what prevents it.
        v_threshold: Threshold, positive; a number or tensor like ``tau``.
        v_reset: Potential after a hard reset, and at rest: a number, which is not learned; None
            resets by subtraction.
        decay_input: Divide the input by tau too.
        detach_reset: Cut the gradient through the reset.
        surrogate: The derivative of a spike: one of :mod:`spikeloom.neurons.surrogate`, or any
            object with ``derivative(u)``.
        fires_at_threshold: Fire at ``h >= v_threshold`` (SpikingJelly); False: only above
            (snnTorch, Norse, NIR).

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If tau < 1, a threshold is not positive, or a value is not finite.

    State: ``v``, the potential after reset.

    Example:
        >>> import torch, spikeloom
        >>> neuron = spikeloom.neurons.LIF(tau=2.0, v_reset=None)
        >>> spikes, (v,) = spikeloom.run(neuron, torch.full((5, 1), 1.6))
        >>> spikes.flatten()
        tensor([0., 1., 0., 1., 0.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.LIFNode``.
    """

    rules = Fixed(
        {
            **_IntegrateAndFire.rules,
            "tau": Rule("is in steps and must be at least 1", lambda tau: tau >= 1.0),
        }
    )

    def __init__(
        self,
        tau: float | Tensor | None = 2.0,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        decay_input: bool = True,
        detach_reset: bool = False,
        surrogate: Surrogate | None = Sigmoid(),
        fires_at_threshold: bool = True,
    ) -> None:
        super().__init__(
            {} if tau is None else {"tau": tau},
            v_threshold,
            v_reset,
            decay_input,
            detach_reset,
            surrogate,
            fires_at_threshold,
        )

    def _charge(self, x: Any, v: Any, p: Any) -> Any:
        return super()._charge(x, v, p) if "tau" in self.params else v + x

    def _share(self, difference: Any, p: Any) -> Any:
        return difference / p.tau

    def response(self, values: Mapping[str, Any]) -> Response:
        """The filter below the threshold; an integrator without ``tau``."""
        if "tau" not in self.params:
            return Response(1.0)
        share = 1 / values["tau"]
        return Response(1 - share, gain=share if self.decay_input else 1.0)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {"tau": self.params.get("tau"), **super().settings()}


class ParametricLIF(_IntegrateAndFire):
    r"""Leaky integrate-and-fire with a leak that is a factor, as SpikingJelly's PLIF computes it.

    .. math::
        h[t] = v[t-1] + \bigl(x[t] - (v[t-1] - v_\mathrm{reset})\bigr)\,r

    It fires and resets as :class:`LIF`. In exact arithmetic r is 1 / tau; rounded, a product is
    not the quotient, so that spikes of the two may differ where a potential meets the threshold.
    Without ``decay_input``: ``h = v - (v - v_reset) * r + x``.

    To learn the leak as published, learn ``w`` with ``r = sigmoid(w)``, which keeps it in range:
    ``run(neuron, x, params={"rate": w.sigmoid()})`` with a ``rate`` that is a 0-d tensor, or
    SpikingJelly's ``ParametricLIFNode`` among the plugins.

    Args:
        rate: r, the share of its distance that a potential loses in a step, in (0, 1]; a tensor (a
            Parameter to learn it) is shared when 0-d and per neuron otherwise.
        v_threshold: Threshold, positive; a number or tensor like ``rate``.
        v_reset: Potential after a hard reset, and at rest; None resets by subtraction.
        decay_input: Multiply the input by the rate too.
        detach_reset: Cut the gradient through the reset.
        surrogate: The derivative of a spike.
        fires_at_threshold: Fire at the threshold, not only above it.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a rate lies outside (0, 1], a threshold is not positive, or a value is not
            finite.

    State: ``v``, the potential after reset.

    Example:
        >>> import torch, spikeloom
        >>> w = torch.tensor(0.0, requires_grad=True)
        >>> neuron = spikeloom.neurons.ParametricLIF(rate=torch.tensor(0.5))
        >>> x = torch.full((4, 1), 1.5)
        >>> spikes, (v,) = spikeloom.run(neuron, x, params={"rate": w.sigmoid()})
        >>> spikes.detach().flatten()
        tensor([0., 1., 0., 1.])
        >>> spikes.sum().backward()
        >>> bool(w.grad > 0)
        True

    Source: Fang et al., Incorporating Learnable Membrane Time Constant to Enhance Learning of
    Spiking Neural Networks, ICCV 2021, as in SpikingJelly 2.0,
    ``activation_based.neuron.ParametricLIFNode``.
    """

    rules = Fixed(
        {
            **_IntegrateAndFire.rules,
            "rate": Rule("must lie in (0, 1]", lambda rate: (rate > 0.0) & (rate <= 1.0)),
        }
    )

    def __init__(
        self,
        rate: float | Tensor = 0.5,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        decay_input: bool = True,
        detach_reset: bool = False,
        surrogate: Surrogate | None = Sigmoid(),
        fires_at_threshold: bool = True,
    ) -> None:
        super().__init__(
            {"rate": rate},
            v_threshold,
            v_reset,
            decay_input,
            detach_reset,
            surrogate,
            fires_at_threshold,
        )

    def _share(self, difference: Any, p: Any) -> Any:
        return difference * p.rate

    def response(self, values: Mapping[str, Any]) -> Response:
        """The filter below the threshold."""
        share = values["rate"]
        return Response(1 - share, gain=share if self.decay_input else 1.0)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {"rate": self.params["rate"], **super().settings()}


class IF(LIF):
    r"""Integrate-and-fire without leak: :class:`LIF` with ``tau=None``.

    .. math:: h[t] = v[t-1] + x[t]

    Args:
        v_threshold: Threshold, positive.
        v_reset: Potential after a hard reset, a number; None resets by subtraction.
        detach_reset: Cut the gradient through the reset.
        surrogate: The derivative of a spike.
        fires_at_threshold: Fire at the threshold, not only above it.

    Example:
        >>> import torch, spikeloom
        >>> spikes, _ = spikeloom.run(spikeloom.neurons.IF(), torch.full((4, 1), 0.5))
        >>> spikes.flatten()
        tensor([0., 1., 0., 1.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.IFNode``.
    """

    def __init__(
        self,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        detach_reset: bool = False,
        surrogate: Surrogate | None = Sigmoid(),
        fires_at_threshold: bool = True,
    ) -> None:
        super().__init__(
            None, v_threshold, v_reset, True, detach_reset, surrogate, fires_at_threshold
        )

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        unused = ("tau", "decay_input")
        return {name: value for name, value in super().settings().items() if name not in unused}


class Leaky(Described):
    r"""Leaky integrate-and-fire, as snnTorch computes it.

    The reset that a spike causes is applied at the next step, and its gradient is cut:

    .. math::
        r[t] &= \Theta(v[t-1] - \theta) \\
        v[t] &= \beta\,v[t-1] + x[t] - r[t]\,\theta \quad\text{(subtract)} \\
        v[t] &= \beta\,(1 - r[t])\,v[t-1] + x[t] \quad\text{(zero)} \\
        s[t] &= \Theta(v[t] - \theta)\,g

    Args:
        beta: Decay a step; clamped to [0, 1] in the step, as snnTorch does. A tensor is shared
            when 0-d and per neuron otherwise; a Parameter is learned.
        threshold: Threshold, positive; a number or tensor like ``beta``.
        reset_mechanism: ``"subtract"``, ``"zero"`` or ``"none"``.
        reset_delay: False resets in the step that fires: before it is returned, the potential
            changes by the reset due now less the one made at the start of the step, ``s / g - r``
            times ``threshold`` (subtract) or ``v`` (zero), whose gradient is not cut.
        surrogate: The derivative of a spike; fires strictly above the threshold.
        graded_spikes_factor: g, the height of a spike; a number or tensor like ``beta``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the threshold is not positive, the mechanism unknown or a value not finite.

    State: ``mem``, the potential before (``reset_delay=True``) or after the reset.

    Example:
        >>> import torch, spikeloom
        >>> spikes, (mem,) = spikeloom.run(spikeloom.neurons.Leaky(0.5), torch.ones(4, 1))
        >>> spikes.flatten()
        tensor([0., 1., 0., 1.])

    Source: snnTorch 1.0, ``snntorch.Leaky``.
    """

    rules = Fixed({"threshold": POSITIVE})

    def __init__(
        self,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        reset_mechanism: str = "subtract",
        reset_delay: bool = True,
        surrogate: Surrogate | None = ATan(),
        graded_spikes_factor: float | Tensor = 1.0,
    ) -> None:
        mechanisms = ("subtract", "zero", "none")
        self.reset_mechanism = checked_choice("Leaky: reset_mechanism", reset_mechanism, mechanisms)
        self.reset_delay = bool(reset_delay)
        self.surrogate = checked_surrogate("Leaky", surrogate, ATan())
        params = {
            "beta": beta,
            "threshold": threshold,
            "graded_spikes_factor": graded_spikes_factor,
        }
        super().__init__(self._step, state=("mem",), params=params, name="Leaky")

    def _reset(self, mem: Any, p: Any) -> Any:
        return fire(mem - p.threshold, strict=True)

    def _fire(self, mem: Any, p: Any) -> Any:
        return fire(mem - p.threshold, self.surrogate, strict=True)

    def _charge(self, x: Any, mem: Any, reset: Any, p: Any) -> Any:
        if self.reset_mechanism == "zero":
            mem = (1.0 - reset) * mem
        mem = clamp(p.beta, 0.0, 1.0) * mem + x
        return mem - reset * p.threshold if self.reset_mechanism == "subtract" else mem

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        (mem,) = state
        reset = self._reset(mem, p)
        mem = self._charge(x, mem, reset, p)
        s = self._fire(mem, p)
        if not self.reset_delay:
            # The next step resets again what is still above the threshold: not twice here.
            due = s - reset
            if self.reset_mechanism == "subtract":
                mem = mem - due * p.threshold
            elif self.reset_mechanism == "zero":
                mem = mem - due * mem
        return s * p.graded_spikes_factor, (mem,)

    def response(self, values: Mapping[str, Any]) -> Response:
        """The filter below the threshold."""
        return Response.clamped(values["beta"])

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {
            "beta": self.params["beta"],
            "threshold": self.params["threshold"],
            "reset_mechanism": self.reset_mechanism,
            "reset_delay": self.reset_delay,
            "surrogate": self.surrogate,
            "graded_spikes_factor": self.params["graded_spikes_factor"],
        }


class LIFBox(Described):
    r"""Leaky integrate-and-fire without a synaptic current, as Norse computes it.

    .. math::
        h[t] &= v[t-1] + \Delta t\,\tau_\mathrm{mem}^{-1}
        \bigl((x[t] + v_\mathrm{leak}) - v[t-1]\bigr) \\
        s[t] &= \Theta(h[t] - v_\mathrm{th}),\qquad
        v[t] = (1 - s[t])\,h[t] + s[t]\,v_\mathrm{reset}

    With ``reset_method="subtract"``: ``v = (1 - s) h + s (h - v_th)``.

    Args:
        tau_mem_inv: Inverse membrane time constant in 1/s, positive; a tensor is shared when 0-d
            and per neuron otherwise; a Parameter is learned.
        v_leak: Leak potential, a number or tensor like ``tau_mem_inv``.
        v_th: Threshold, of either sign; firing is strict.
        v_reset: Potential after a reset by value.
        reset_method: ``"value"`` or ``"subtract"``.
        surrogate: The derivative of a spike.
        dt: Time step in seconds, positive.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite.

    State: ``v``, the potential after reset. Rest is the leak potential that the neuron is made
    with, or 0 if that differs between neurons.

    Example:
        >>> import torch, spikeloom
        >>> neuron = spikeloom.neurons.LIFBox(tau_mem_inv=500.0)
        >>> spikes, (v,) = spikeloom.run(neuron, torch.full((4, 1), 1.5))
        >>> spikes.flatten()
        tensor([0., 1., 0., 1.])

    Source: Norse 1.1, ``norse.torch.functional.lif_box.lif_box_feed_forward_step``.
    """

    rules = Fixed({"tau_mem_inv": POSITIVE, "dt": POSITIVE})

    def __init__(
        self,
        tau_mem_inv: float | Tensor = 100.0,
        v_leak: float | Tensor = 0.0,
        v_th: float | Tensor = 1.0,
        v_reset: float | Tensor = 0.0,
        reset_method: str = "value",
        surrogate: Surrogate | None = SuperSpike(),
        dt: float = 0.001,
    ) -> None:
        methods = ("value", "subtract")
        self.reset_method = checked_choice("LIFBox: reset_method", reset_method, methods)
        self.surrogate = checked_surrogate("LIFBox", surrogate, SuperSpike())
        params = {
            "tau_mem_inv": tau_mem_inv,
            "v_leak": checked_value("LIFBox: v_leak", v_leak),
            "v_th": v_th,
            "v_reset": v_reset,
            "dt": dt,
        }
        if isinstance(v_leak, Tensor):
            rest = 0.0 if v_leak.dim() else v_leak.item()
        else:
            rest = float(v_leak)
        super().__init__(self._step, state={"v": rest}, params=params, name="LIFBox")

    def charge_and_fire(self, x: Any, state: Any, p: Any) -> tuple[Any, Any]:
        """The part of the step before the reset: ``h`` and the spike."""
        (v,) = state
        h = v + p.dt * p.tau_mem_inv * (x + p.v_leak - v)
        return h, fire(h - p.v_th, self.surrogate, strict=True)

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        h, s = self.charge_and_fire(x, state, p)
        after = p.v_reset if self.reset_method == "value" else h - p.v_th
        return s, ((1.0 - s) * h + s * after,)

    def response(self, values: Mapping[str, Any]) -> Response:
        """The filter below the threshold."""
        return Response.euler(values["dt"], values["tau_mem_inv"])

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {
            "tau_mem_inv": self.params["tau_mem_inv"],
            "v_leak": self.params["v_leak"],
            "v_th": self.params["v_th"],
            "v_reset": self.params["v_reset"],
            "reset_method": self.reset_method,
            "surrogate": self.surrogate,
            "dt": self.params["dt"],
        }


def _reset_potential(neuron: str, value: Any) -> float:
    """The reset potential of a hard reset; it is also where the state begins, hence a number."""
    if isinstance(value, Tensor):
        raise TypeError(
            f"{neuron}: v_reset must be a number or None, because no gradient reaches it; got a "
            f"{type(value).__name__} of shape {list(value.shape)}. Give float(v_reset), or take "
            f"LIFBox, whose v_reset may be a tensor and learns"
        )
    return checked_number(f"{neuron}: v_reset", value, "must be a finite number or None")
