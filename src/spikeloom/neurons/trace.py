"""Linear filters: what a membrane does without a threshold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import Rule
from spikeloom.neurons.described import Described, Variant
from spikeloom.neurons.forms import Constants, Filter, NoForm, steps_of

__all__ = ["Response", "Trace"]

SHARE = Rule("must lie in [0, 1]", lambda d: (d >= 0.0) & (d <= 1.0))

Value = float | Tensor


@dataclass(frozen=True, eq=False)
class Response:
    r"""What a membrane does with its input while it neither fires nor resets.

    .. math:: i[t] = \alpha\, i[t-1] + x[t],\qquad v[t] = \lambda\, v[t-1] + g\, i[t]

    A tensor of one value becomes a number.

    Attributes:
        decay: :math:`\lambda`; a tensor has a value for each neuron.
        synaptic_decay: :math:`\alpha`; None: there is no synaptic stage, i = x.
        gain: g.
    """

    decay: Value
    synaptic_decay: Value | None = None
    gain: Value = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, None if value is None else _plain(value))

    @classmethod
    def euler(cls, dt: Any, inverse: Any, synaptic_inverse: Any = None) -> Response:
        """One Euler step of a leaky membrane, behind an exponential synapse if one is given.

        Args:
            dt: Step.
            inverse: Inverse of the membrane's time constant.
            synaptic_inverse: Inverse of the synapse's.
        """
        share = dt * _double(inverse)
        synaptic = None if synaptic_inverse is None else 1 - dt * _double(synaptic_inverse)
        return cls(1 - share, synaptic, share)

    @classmethod
    def clamped(cls, decay: Any, synaptic_decay: Any = None) -> Response:
        """Decays that are clamped to [0, 1], and no gain."""
        synaptic = None if synaptic_decay is None else _double(synaptic_decay).clamp(0, 1)
        return cls(_double(decay).clamp(0, 1), synaptic)

    def trace(self) -> Trace:
        """The filter without its gain."""
        return Trace(self.decay, self.synaptic_decay)


def _double(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).detach()


def _plain(value: Any) -> Value:
    if not isinstance(value, Tensor):
        return float(value)
    value = value.detach().double()
    return float(value) if value.numel() == 1 else value


class Trace(Described):
    r"""An exponential trace of its input: a neuron that never fires and never resets.

    .. math::
        z[t] = d\,z[t-1] + x[t]

    With a synaptic stage in front:

    .. math::
        i[t] = d_\mathrm{syn}\,i[t-1] + x[t],\qquad z[t] = d\,z[t-1] + i[t]

    The output is the trace itself, so ``decay=0`` is the identity.

    Args:
        decay: d, the share of the trace that a step keeps, in [0, 1]: a number, or a tensor
            (0-d shared, otherwise per neuron; a Parameter is learned).
        synaptic_decay: The same for the first stage; None leaves it out.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value lies outside [0, 1].

    State: ``z``, and ``i`` with a synaptic stage.

    Example:
        >>> import torch, spikeloom
        >>> trace, _ = spikeloom.run(spikeloom.neurons.Trace(0.5), torch.ones(4, 1))
        >>> trace.flatten()
        tensor([1.0000, 1.5000, 1.7500, 1.8750])
    """

    rules = Fixed({"decay": SHARE, "synaptic_decay": SHARE})

    def __init__(self, decay: float | Tensor, synaptic_decay: float | Tensor | None = None) -> None:
        params = {"decay": decay}
        if synaptic_decay is not None:
            params["synaptic_decay"] = synaptic_decay
        state = ("z",) if synaptic_decay is None else ("z", "i")
        super().__init__(self._step, state=state, params=params, name="Trace")

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        if len(state) == 1:
            z = p.decay * state[0] + x
            return z, (z,)
        i = p.synaptic_decay * state[1] + x
        z = p.decay * state[0] + i
        return z, (z, i)

    def response(self, values: Mapping[str, Any]) -> Response | None:
        """The filter itself."""
        return Response(values["decay"], values.get("synaptic_decay"))

    def form(self, values: Constants) -> Filter:
        """A leaky integrator whose input is not divided."""
        k = steps_of("decay", values["decay"])
        if "synaptic_decay" not in values:
            return Filter(k=k, divided=False)
        synapse = steps_of("synaptic_decay", values["synaptic_decay"])
        if k is None or synapse is None:
            raise NoForm("one of its two stages does not decay", "use decays below 1")
        return Filter(k=k, divided=False, synapse=synapse)

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """One stage, and two."""
        yield Variant("", cls(0.5))
        yield Variant("with a synapse", cls(0.5, synaptic_decay=0.75))

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {"decay": self.params["decay"], "synaptic_decay": self.params.get("synaptic_decay")}
