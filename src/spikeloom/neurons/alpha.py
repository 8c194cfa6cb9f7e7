"""Alpha: a neuron whose potential is the difference of two currents, as snnTorch computes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel.neuron import Parameter
from spikeloom.kernel.vocabulary import Surrogate, clamp
from spikeloom.neurons.delayed_reset import DelayedReset
from spikeloom.neurons.surrogate import ATan

__all__ = ["Alpha", "gain_of"]


def gain_of(alpha: float | Tensor, beta: float | Tensor) -> Tensor:
    r"""The factor that gives the potential of an alpha neuron its height.

    .. math:: \frac{\log \alpha}{\log \beta - \log \alpha} + 1

    Args:
        alpha: Decay of the excitatory current.
        beta: Decay of the inhibitory current.
    """
    a, b = (torch.log(torch.as_tensor(value).clamp(0, 1)) for value in (alpha, beta))
    return a / (b - a) + 1


class Alpha(DelayedReset):
    r"""A neuron that answers a spike with an alpha function, as snnTorch computes it.

    .. math::
        r[t] &= \Theta(v[t-1] - \theta) \\
        e[t] &= \alpha\,e[t-1] + x[t],\qquad i[t] = \beta\,i[t-1] - x[t],\qquad
        m[t] = g_{\alpha\beta}\,(e[t] + i[t]) \\
        s[t] &= \Theta(v[t] - \theta)\,g

    With ``"subtract"``, a spike takes :math:`\theta` from e, puts i to 0 and adds :math:`i[t-1]` to
    the potential; with ``"zero"`` it puts all three to 0; both at the next step, as in snnTorch.
    :math:`g_{\alpha\beta} = \log \alpha / (\log \beta - \log \alpha) + 1`.

    Args:
        alpha: Decay of the excitatory current a step, above ``beta``; a tensor is shared when 0-d
            and per neuron otherwise; a Parameter is learned.
        beta: Decay of the inhibitory current, likewise.
        threshold: Threshold, positive; a number or tensor like ``alpha``.
        reset_mechanism: ``"subtract"``, ``"zero"`` or ``"none"``.
        surrogate: The derivative of a spike; fires strictly above the threshold.
        graded_spikes_factor: g, the height of a spike; a number or tensor like ``alpha``.
        gain: :math:`g_{\alpha\beta}`; None computes it. It does not follow decays that learn: a
            call brings its value, ``run(neuron, x, params={"gain": gain_of(alpha, beta)})``, as
            the ``Alpha`` of snnTorch's plugin does.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If alpha is not above beta, beta is 1, the threshold is not positive, the
            mechanism unknown or a value not finite.

    State: ``mem``, the potential before the reset, ``syn_exc`` and ``syn_inh``, the currents.

    Example:
        >>> import torch, spikeloom
        >>> neuron = spikeloom.neurons.Alpha(0.9, 0.5, threshold=0.5)
        >>> x = torch.zeros(5, 1)
        >>> x[0] = 1.0
        >>> spikes, _ = spikeloom.run(neuron, x)
        >>> spikes.flatten()
        tensor([0., 0., 1., 0., 0.])

    Source: snnTorch 1.0, ``snntorch.Alpha``.
    """

    def __init__(
        self,
        alpha: float | Tensor,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        reset_mechanism: str = "zero",
        surrogate: Surrogate | None = ATan(),
        graded_spikes_factor: float | Tensor = 1.0,
        gain: float | Tensor | None = None,
    ) -> None:
        _require_order(alpha, beta)
        if gain is None:
            gain = gain_of(alpha, beta).detach()
        super().__init__(
            {"gain": gain, "alpha": alpha, "beta": beta},
            ("mem", "syn_exc", "syn_inh"),
            threshold,
            reset_mechanism,
            True,
            surrogate,
            graded_spikes_factor,
        )

    def check_parameters(self, values: Mapping[str, Parameter]) -> None:
        """Raise unless alpha is above beta, and beta below 1."""
        super().check_parameters(values)
        if {"alpha", "beta"} <= values.keys():
            _require_order(values["alpha"], values["beta"])

    def _charge(self, x: Any, state: tuple[Any, ...], reset: Any, p: Any) -> tuple[Any, ...]:
        _, exc, inh = state
        charged_exc = clamp(p.alpha, 0.0, 1.0) * exc + x
        charged_inh = clamp(p.beta, 0.0, 1.0) * inh - x
        mem = p.gain * (charged_exc + charged_inh)
        if self.reset_mechanism == "none":
            return mem, charged_exc, charged_inh
        if self.reset_mechanism == "zero":
            return tuple(each - each * reset for each in (mem, charged_exc, charged_inh))
        return (
            mem - -inh * reset,
            charged_exc - p.threshold * reset,
            charged_inh - charged_inh * reset,
        )

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        settings = super().settings()
        del settings["reset_delay"]
        return {**settings, "gain": settings.pop("gain")}


def _require_order(alpha: Any, beta: Any) -> None:
    a, b = (torch.as_tensor(value).detach() for value in (alpha, beta))
    if a.is_meta or b.is_meta:
        return
    if bool((a <= b.to(a.device)).any()) or bool((b == 1).any()):
        raise ValueError(f"Alpha: alpha must be above beta, and beta below 1, got {alpha}, {beta}")
