r"""Surrogate gradients: what stands in for the derivative of a spike.

The forward pass fires on a threshold; the backward pass uses ``derivative(u)`` at the distance
``u`` from it. Formulas, parameter names and defaults are those of the frameworks, so that a
training run can be moved without retuning. Your own surrogate is any object with a
``derivative(u)`` written in the words of :mod:`spikeloom.kernel.vocabulary`:

>>> from dataclasses import dataclass
>>> from spikeloom.kernel.vocabulary import absolute, where
>>> @dataclass(frozen=True)
... class Boxcar:
...     width: float = 1.0
...     def derivative(self, u):
...         return where(absolute(u) < self.width / 2, 1.0 / self.width + 0.0 * u, 0.0)
>>> from spikeloom import neurons
>>> neurons.LIF(surrogate=Boxcar(0.5)).settings()["surrogate"]
Boxcar(width=0.5)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from spikeloom.kernel.vocabulary import absolute, exp, maximum, sigmoid, where

__all__ = [
    "ATan",
    "Erf",
    "FastSigmoid",
    "PiecewiseExp",
    "PiecewiseQuadratic",
    "Rect",
    "Sigmoid",
    "SoftSign",
    "StraightThrough",
    "SuperSpike",
    "Triangle",
]


@dataclass(frozen=True)
class _Sharpness:
    """A surrogate with one positive parameter."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            number = float(value) if isinstance(value, Real) else math.nan
            if isinstance(value, bool) or not 0 < number < math.inf:
                name = f"{type(self).__name__}: {field.name}"
                raise ValueError(f"{name} must be a positive finite number, got {value!r}")
            object.__setattr__(self, field.name, number)


@dataclass(frozen=True)
class ATan(_Sharpness):
    r"""The derivative of a scaled arctangent (SpikingJelly ``ATan``, snnTorch ``atan``).

    .. math:: \frac{\alpha / 2}{1 + (\frac{\pi}{2} \alpha u)^2}
    """

    alpha: float = 2.0

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        z = u * (math.pi / 2 * self.alpha)
        return (self.alpha / 2) / (1.0 + z * z)


@dataclass(frozen=True)
class Sigmoid(_Sharpness):
    r"""The derivative of a logistic function (SpikingJelly ``Sigmoid``, snnTorch ``sigmoid``).

    .. math:: \alpha \, \sigma(\alpha u) (1 - \sigma(\alpha u))
    """

    alpha: float = 4.0

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        s = sigmoid(self.alpha * u)
        return (1.0 - s) * s * self.alpha


@dataclass(frozen=True)
class PiecewiseQuadratic(_Sharpness):
    r"""A triangle of height alpha and half-width 1 / alpha (SpikingJelly).

    .. math:: \max(0,\; \alpha - \alpha^2 |u|)
    """

    alpha: float = 1.0

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        return maximum(self.alpha - self.alpha * self.alpha * absolute(u), 0.0)


@dataclass(frozen=True)
class PiecewiseExp(_Sharpness):
    r"""Two exponentials back to back (SpikingJelly).

    .. math:: \frac{\alpha}{2} e^{-\alpha |u|}
    """

    alpha: float = 1.0

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        return (self.alpha / 2) * exp(-self.alpha * absolute(u))


@dataclass(frozen=True)
class SoftSign(_Sharpness):
    r"""The derivative of a scaled softsign (SpikingJelly).

    .. math:: \frac{1}{2 \alpha (1 / \alpha + |u|)^2}
    """

    alpha: float = 2.0

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        z = 1.0 / self.alpha + absolute(u)
        return 1.0 / (2.0 * self.alpha * z * z)


@dataclass(frozen=True)
class SuperSpike(_Sharpness):
    r"""A squared hyperbola (SpikingJelly ``SuperSpike``; Norse 1.1 ``super`` is alpha = 1).

    .. math:: \frac{\alpha}{(1 + |u|)^2}

    Norse hands its parameter alpha to the function but does not use it.
    """

    alpha: float = 1.0

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        z = 1.0 + absolute(u)
        return self.alpha / (z * z)


@dataclass(frozen=True)
class Erf(_Sharpness):
    r"""A Gaussian (SpikingJelly).

    .. math:: \frac{\alpha}{\sqrt{\pi}} e^{-\alpha^2 u^2}
    """

    alpha: float = 2.0

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        z = self.alpha * u
        return (self.alpha / math.sqrt(math.pi)) * exp(-(z * z))


@dataclass(frozen=True)
class FastSigmoid(_Sharpness):
    r"""The derivative of a fast sigmoid (snnTorch ``fast_sigmoid``).

    .. math:: \frac{1}{(1 + k |u|)^2},\qquad k = \mathrm{slope}
    """

    slope: float = 25.0

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        z = self.slope * absolute(u) + 1.0
        return 1.0 / (z * z)


@dataclass(frozen=True)
class Rect(_Sharpness):
    r"""A rectangle of height alpha and width 1 / alpha (SpikingJelly).

    .. math:: \alpha \text{ where } |u| < \frac{1}{2 \alpha}, \text{ else } 0
    """

    alpha: float = 1.0

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        return where(absolute(u) < 0.5 / self.alpha, self.alpha + 0.0 * u, 0.0)


@dataclass(frozen=True)
class StraightThrough(_Sharpness):
    """The identity: gradients pass as if no threshold were there (snnTorch)."""

    def derivative(self, u: Any) -> Any:
        """One, whatever ``u``."""
        return 0.0 * u + 1.0


@dataclass(frozen=True)
class Triangle(_Sharpness):
    r"""A triangle of height 1 / width and half-width ``width``, area 1.

    .. math:: \frac{1}{w} \max(0,\; 1 - |u| / w)
    """

    width: float = 1.0

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        return maximum(1.0 - absolute(u) / self.width, 0.0) / self.width
