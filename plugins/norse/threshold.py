"""Norse's threshold methods as surrogates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from norse.torch.functional.threshold import threshold
from torch import Tensor

from spikeloom.kernel.vocabulary import Surrogate, absolute, exp, relu, sqrt, tanh
from spikeloom.neurons.surrogate import FastSigmoid, SuperSpike

__all__ = [
    "Circ",
    "Erfc",
    "Heaviside",
    "HostThreshold",
    "Tanh",
    "Triangle",
    "host_form",
    "surrogate_of",
]


@dataclass(frozen=True)
class Heaviside:
    """``"heaviside"``: no gradient passes a spike, which does not require grad in Norse."""

    def derivative(self, u: Any) -> Any:
        """Zero, whatever ``u``."""
        return 0.0


@dataclass(frozen=True)
class Triangle:
    r"""``"triangle"``: a triangle of half-width 1.

    .. math:: \alpha \max(0,\; 1 - |u|)
    """

    alpha: float

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        return self.alpha * relu(1.0 - absolute(u))


@dataclass(frozen=True)
class Tanh:
    r"""``"tanh"``.

    .. math:: 1 - \tanh^2(\alpha u)
    """

    alpha: float

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        z = tanh(self.alpha * u)
        return 1.0 - z * z


@dataclass(frozen=True)
class Circ:
    r"""``"circ"``.

    .. math:: \alpha^3 / (\alpha^2 + u^2)^{3/2}
    """

    alpha: float

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        z = u / self.alpha
        q = 1.0 + z * z
        return 1.0 / (q * sqrt(q))


@dataclass(frozen=True)
class Erfc:
    r"""``"heavi_erfc"``.

    .. math:: \frac{2}{\sqrt{\pi}} e^{-\alpha^2 u^2}
    """

    alpha: float

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        z = self.alpha * u
        return (2.0 / math.sqrt(math.pi)) * exp(-(z * z))


@dataclass(frozen=True, eq=False)
class HostThreshold:
    """A method of which only Norse knows the derivative; neurons with it run eager."""

    method: str
    alpha: Any

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``, which has to be a tensor."""
        if not isinstance(u, Tensor):
            raise TypeError(
                f"the derivative of Norse's threshold method {self.method!r} with "
                f"alpha={self.alpha} is known to Norse only"
            )
        return _in_norse(self.method, self.alpha, u)[1]


# Releases of Norse differ in "super"; the one installed decides.
_FORMS: dict[str, tuple[Callable[[float], Surrogate], ...]] = {
    "heaviside": (lambda alpha: Heaviside(),),
    "super": (lambda alpha: SuperSpike(), FastSigmoid),
    "triangle": (Triangle,),
    "tanh": (Tanh,),
    "circ": (Circ,),
    "heavi_erfc": (Erfc,),
}

_PROBES = (-3.0, -1.0, -0.4, -0.01, -0.001, 0.0, 0.002, 0.02, 0.5, 1.5)


def surrogate_of(method: str, alpha: Any) -> Surrogate:
    """The surrogate that equals a threshold method of the Norse that is installed.

    Args:
        method: Norse's name for it, such as ``super``.
        alpha: Norse's parameter of it, a number or a tensor.

    Returns:
        A surrogate with a kernel, or a :class:`HostThreshold` if none equals it.

    Raises:
        ValueError: If Norse has no such method, or does not fire exactly above the threshold
            with it.

    Example:
        >>> surrogate_of("triangle", 0.3)
        Triangle(alpha=0.3)
    """
    with torch.device("cpu"):  # modules may be made under another default device, such as "meta"
        return _recognised(method, alpha)


def _recognised(method: str, alpha: Any) -> Surrogate:
    u = torch.tensor(_PROBES, dtype=torch.float64)
    if isinstance(alpha, Tensor) and alpha.numel() > 1:
        return HostThreshold(method, alpha)
    number = alpha.item() if isinstance(alpha, Tensor) else float(alpha)
    if not math.isfinite(number):
        raise ValueError(f"p.alpha: must be finite, got {number}")
    spikes, slopes = _in_norse(method, number, u)
    if not torch.equal(spikes, (u > 0).to(u.dtype)):
        raise ValueError(
            f"p.method: {method!r} does not fire exactly above the threshold; use another method"
        )
    for form in _FORMS.get(method, ()):
        surrogate = form(number)
        found = torch.as_tensor(surrogate.derivative(u), dtype=u.dtype).expand_as(u)
        if torch.allclose(found, slopes, rtol=1e-6, atol=1e-12):
            return surrogate
    return HostThreshold(method, number)


def host_form(surrogate: Any) -> tuple[str, Any] | None:
    """The method and alpha by which Norse computes a surrogate; None if it has none.

    Args:
        surrogate: One of ours, or any other.

    Example:
        >>> host_form(Triangle(0.3))
        ('triangle', 0.3)
    """
    if isinstance(surrogate, HostThreshold):
        return surrogate.method, surrogate.alpha
    alpha = getattr(surrogate, "alpha", getattr(surrogate, "slope", 1.0))
    for method in _FORMS:
        if surrogate_of(method, alpha) == surrogate:
            return method, alpha
    return None


def _in_norse(method: str, alpha: Any, u: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes and their surrogate derivatives as Norse computes them."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        spikes = threshold(u, method, alpha)
        if not spikes.requires_grad:
            return spikes, torch.zeros_like(u)
        (slopes,) = torch.autograd.grad(spikes.sum(), u)
    return spikes.detach(), slopes
