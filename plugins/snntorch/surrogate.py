"""snnTorch's surrogate gradients, recognised and written in the words of a step.

``snntorch.surrogate.atan(alpha)`` and its siblings return closures over one ``autograd.Function``;
which one, and with which numbers, can be read off the closure. A kernel is generated for those.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snntorch import surrogate as host

from spikeloom.kernel.vocabulary import Surrogate, absolute, exp, where
from spikeloom.neurons.surrogate import ATan, FastSigmoid, Sigmoid, StraightThrough

__all__ = [
    "Heaviside",
    "NoGradient",
    "SparseFastSigmoid",
    "SpikeRateEscape",
    "Triangular",
    "host_form",
    "recognise",
]


@dataclass(frozen=True)
class NoGradient:
    """No gradient passes a spike (snnTorch ``surrogate_disable=True``)."""

    def derivative(self, u: Any) -> Any:
        """Zero, whatever ``u``."""
        return 0.0


@dataclass(frozen=True)
class Heaviside:
    """One where the neuron has fired, zero elsewhere (snnTorch ``heaviside``)."""

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        return where(u > 0, 1.0, 0.0)


@dataclass(frozen=True)
class Triangular:
    """``threshold`` below the threshold, ``-threshold`` at and above it (snnTorch ``triangular``).

    Not a triangle but its slope, as snnTorch has it; our own triangle is
    :class:`spikeloom.neurons.surrogate.Triangle`.
    """

    threshold: float = 1.0

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        return where(u >= 0, -1.0, 1.0) * self.threshold


@dataclass(frozen=True)
class SpikeRateEscape:
    r"""The slope of an escape rate (snnTorch ``spike_rate_escape``).

    .. math:: k\, e^{-\beta |u - 1|},\qquad k = \mathrm{slope}
    """

    beta: float = 1.0
    slope: float = 25.0

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        return self.slope * exp(-self.beta * absolute(u - 1.0))


@dataclass(frozen=True)
class SparseFastSigmoid:
    r"""A fast sigmoid's derivative, and zero up to ``B`` (snnTorch ``SFS``).

    .. math:: \frac{[u > B]}{(1 + k |u|)^2},\qquad k = \mathrm{slope}
    """

    slope: float = 25.0
    B: float = 1.0

    def derivative(self, u: Any) -> Any:
        """The surrogate derivative at ``u``."""
        z = self.slope * absolute(u) + 1.0
        return where(u > self.B, 1.0 / (z * z), 0.0)


# What snnTorch's function of this name stands for; its closure holds the arguments.
_MEANING: dict[str, Callable[..., Surrogate]] = {
    "atan": ATan,
    "fast_sigmoid": FastSigmoid,
    "heaviside": Heaviside,
    "sigmoid": lambda slope: Sigmoid(alpha=slope),
    "SFS": SparseFastSigmoid,
    "spike_rate_escape": SpikeRateEscape,
    "straight_through_estimator": StraightThrough,
    "triangular": Triangular,
}


def recognise(spike_grad: Any) -> Surrogate | None:
    """The surrogate behind a ``spike_grad`` argument.

    Args:
        spike_grad: What ``snntorch.surrogate.*()`` returned, or one of spikeloom's surrogates, or
            None for snnTorch's default.

    Returns:
        The surrogate; None for a function whose derivative cannot be known.

    Example:
        >>> from snntorch import surrogate
        >>> recognise(surrogate.fast_sigmoid(slope=10))
        FastSigmoid(slope=10.0)
        >>> recognise(surrogate.SSO()) is None  # draws its gradient at random
        True
    """
    if spike_grad is None:
        return ATan()
    if hasattr(spike_grad, "derivative"):
        return spike_grad
    name, _, rest = getattr(spike_grad, "__qualname__", "").partition(".")
    if getattr(spike_grad, "__module__", "") != "snntorch.surrogate" or rest != "<locals>.inner":
        return None
    if name not in _MEANING:
        return None
    arguments = inspect.getclosurevars(spike_grad).nonlocals
    return _MEANING[name](**{key: float(value) for key, value in arguments.items()})


def host_form(surrogate: Any) -> Callable[[Any], Any] | None:
    """The ``spike_grad`` that a surrogate stands for; None if snnTorch has none.

    Args:
        surrogate: One of spikeloom's.

    Example:
        >>> recognise(host_form(FastSigmoid(slope=10.0)))
        FastSigmoid(slope=10.0)
    """
    if isinstance(surrogate, Sigmoid):
        return host.sigmoid(slope=surrogate.alpha)
    for name, meaning in _MEANING.items():
        if type(surrogate) is meaning:
            return getattr(host, name)(**vars(surrogate))
    return None
