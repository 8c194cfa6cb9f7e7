"""Elastic bi-spiking neurons: spikes of -1, 0 and 1, as high as the data are wide.

Source: Xing et al., "SpikeLM: Towards General Spike-Driven Language Modeling via Elastic
Bi-Spiking Mechanisms", ICML 2024.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.neuron import Parameter, PerStep
from spikeloom.kernel.values import POSITIVE
from spikeloom.kernel.vocabulary import absolute, clamp, detach, maximum, rint, where, with_grad
from spikeloom.neurons.arguments import checked_choice, checked_number
from spikeloom.neurons.described import Described, Variant
from spikeloom.neurons.forms import Constants, Ternary
from spikeloom.neurons.trace import Response

__all__ = ["ElasticBiSpike"]

# Below it, the published code divides by this instead of the amplitude.
FLOOR = 1e-5


class ElasticBiSpike(Described):
    r"""Ternary spikes times an amplitude, from a leaky membrane.

    .. math::
        m[t] &= v[t-1] + x[t], \qquad a[t] = \max(\alpha[t],\, 10^{-5}) \\
        s[t] &= \mathrm{clamp}\bigl(\mathrm{round}(m[t] / a[t]),\, -1,\, 1\bigr), \qquad
        y[t] = a[t]\, s[t] \\
        v[t] &= \lambda\, m[t]\, (\alpha[t] - y[t]) \quad\text{(released)} \qquad
        v[t] = \lambda\, m[t]\, (1 - |s[t]|) \quad\text{(symmetric)}

    The threshold is half the amplitude, and strict: :math:`|m| = \alpha / 2` stays silent, because
    rounding goes to the even neighbour.

    **The released reset is the published code's, and it is lopsided.** A spike of +1 resets the
    membrane to 0; silence multiplies it by :math:`\lambda\alpha`, so the leak depends on the
    amplitude; and a spike of -1 multiplies it by :math:`2\lambda\alpha`: nothing is reset, and
    with :math:`\alpha > 2` negative membranes run away. ``"symmetric"``, which is not published,
    resets after spikes of both signs and leaks by :math:`\lambda` at any amplitude.

    Gradients pass straight through where :math:`|m| \le a`, twice the threshold, and are 0
    elsewhere; the membrane is differentiated through time, the factor in the reset is not. An
    amplitude that requires grad learns by

    .. math::
        \frac{\partial y}{\partial \alpha} = \frac{1}{\sqrt N}
        \begin{cases} \mathrm{sign}(m) & |m| > a \\ s - m / a & \text{otherwise} \end{cases}

    with N the number of neurons in a step, the batch included.

    Args:
        alpha: Amplitude, positive: a number or 0-d tensor; one value a step as a sequence, a
            tensor ``[T]`` or :class:`~spikeloom.PerStep`; or, with two or more dimensions, one
            per neuron, broadcast against ``x.shape[1:]``. A Parameter is learned.

            **One dimension is time**, as in SpikeLM, where for every other neuron a tensor
            ``[C]`` is one value per channel. Say ``alpha[None]``, of shape ``[1, C]``, for one
            amplitude per channel. repr shows ``PerStep([T])`` where it is time, and another
            number of steps is refused.
        decay: :math:`\lambda`, in [0, 1]. 0 is the stateless quantiser, which SpikeLM puts on
            keys and values.
        reset: ``"released"`` or ``"symmetric"``.
        unit_spikes: Send s instead of y, for weights that have absorbed the amplitude.
        grad_scale: Scale the amplitude's gradient by :math:`1 / \sqrt N`, as published.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If alpha is not positive and finite, decay lies outside [0, 1], or the reset is
            unknown. When run: if the table has not one amplitude for each step.

    State: ``v``, what is left of the membrane potential for the next step; record it and
    ``m[t] = v[t-1] + x[t]``.

    Example:
        >>> import torch, spikeloom
        >>> neuron = spikeloom.neurons.ElasticBiSpike(0.8, reset="symmetric")
        >>> y, (v,) = spikeloom.run(neuron, torch.tensor([[0.3, -0.5], [0.5, 0.1]]))
        >>> y
        tensor([[ 0.0000, -0.8000],
                [ 0.8000,  0.0000]])

    Source: Xing et al., ICML 2024, and the authors' code.
    """

    rules = Fixed({"alpha": POSITIVE})
    unit = "alpha"

    def __init__(
        self,
        alpha: float | Sequence[float] | Tensor | PerStep,
        decay: float = 0.25,
        reset: str = "released",
        unit_spikes: bool = False,
        grad_scale: bool = True,
    ) -> None:
        self.decay = checked_number(
            "ElasticBiSpike: decay", decay, "must lie in [0, 1]", lambda decay: 0.0 <= decay <= 1.0
        )
        resets = ("released", "symmetric")
        self.reset = checked_choice("ElasticBiSpike: reset", reset, resets)
        self.unit_spikes = bool(unit_spikes)
        self.grad_scale = bool(grad_scale)
        params = {"alpha": _amplitude(alpha)}
        super().__init__(self._step, state=("v",), params=params, name="ElasticBiSpike")

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        (v,) = state
        m = v + x
        a = maximum(p.alpha, FLOOR)
        q = m / a
        s = clamp(rint(q), -1.0, 1.0)
        inside = absolute(q) <= 1.0
        if self.reset == "released":
            rest = detach(p.alpha) - detach(s * a)
        else:
            rest = 1.0 - detach(absolute(s))
        return self._output(m, a, q, s, inside, p.alpha), (m * self.decay * rest,)

    def _output(self, m: Any, a: Any, q: Any, s: Any, inside: Any, alpha: Any) -> Any:
        if self.unit_spikes:
            # s = y / a, differentiated as such.
            return with_grad(
                s, (m, where(inside, 1.0 / a, 0.0)), (alpha, where(inside, -q / a, 0.0))
            )
        return with_grad(s * a, (m, where(inside, 1.0, 0.0)), (alpha, where(inside, s - q, s)))

    def gradient_scale(self, parameter: str, count: int) -> float | None:
        """The published 1 / sqrt(N) on the amplitude's gradient, unless it is left out."""
        return torch.sym_float(torch.sym_max(count, 1)) ** -0.5 if self.grad_scale else None

    def response(self, values: Mapping[str, Any]) -> Response:
        """What a silent membrane keeps; of amplitudes that change from step to step, the mean."""
        if self.reset == "symmetric":
            return Response(self.decay)
        alpha = values["alpha"]
        alpha = alpha.values.double().mean(-1) if isinstance(alpha, PerStep) else alpha
        return Response.clamped(self.decay * torch.as_tensor(alpha).clamp(min=FLOOR))

    def form(self, values: Constants) -> Ternary:
        """Ternary spikes of a membrane that leaks."""
        alpha = np.maximum(values["alpha"], np.float32(FLOOR))
        one = np.ones(())
        left = self.decay * (alpha if self.reset == "released" else one)
        return Ternary(alpha, left, height=one if self.unit_spikes else alpha)

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """With and without memory."""
        yield Variant("decay 0", cls(1.0, decay=0.0))
        yield Variant("published reset", cls(1.0))
        yield Variant("published reset, a single step", cls(1.0), steps=1)
        yield Variant("symmetric reset", cls(1.0, reset="symmetric"))

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {
            "alpha": self.params["alpha"],
            "decay": self.decay,
            "reset": self.reset,
            "unit_spikes": self.unit_spikes,
            "grad_scale": self.grad_scale,
        }


def _amplitude(alpha: Any) -> Parameter:
    """The amplitude; one dimension is time, every other form means what it does for any neuron."""
    if isinstance(alpha, Sequence) and not isinstance(alpha, str):
        alpha = torch.tensor(alpha, dtype=torch.float32)
    return PerStep(alpha) if isinstance(alpha, Tensor) and alpha.dim() == 1 else alpha
