r"""Functions of unbounded numbers from tables of one octave: the exponent is taken out first.

.. math::
    1/(m\,2^e) = (1/m)\,2^{-e},\qquad 1/\sqrt{m\,4^e} = (1/\sqrt m)\,2^{-e},\qquad
    (m\,2^e)^2 = m^2\,4^e,\qquad 2^x = 2^{x - \lfloor x \rfloor}\,2^{\lfloor x \rfloor}

The few-spike neuron sees the mantissa only, so no value is outside its range and nothing is
clamped; a power of two scales its spikes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from spikeloom.kernel.call import COMPUTED, run
from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.promotion import promoted
from spikeloom.kernel.vocabulary import with_grad
from spikeloom.neurons.gated import LinearHG
from spikeloom.neurons.tables import fit_hg

__all__ = ["Reduced", "fit_reduced"]

# Function -> the range of its mantissa.
MANTISSAS = {
    "exp": (0.0, 1.0),
    "exp2": (0.0, 1.0),
    "log": (1.0, 2.0),
    "reciprocal": (1.0, 2.0),
    "rsqrt": (1.0, 4.0),
    "sqrt": (1.0, 4.0),
    "square": (1.0, 2.0),
}
# Function -> its derivative, from an argument and the value there.
SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "exp": lambda x, y: y,
    "exp2": lambda x, y: y * math.log(2.0),
    "log": lambda x, y: 1.0 / x,
    "reciprocal": lambda x, y: -y * y,
    "rsqrt": lambda x, y: -0.5 * y / x,
    "sqrt": lambda x, y: 0.5 / y,
    "square": lambda x, y: 2.0 * x,
}
# dtype -> integer dtype, bits of the fraction, bias of the exponent.
LAYOUT = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}


@lru_cache(maxsize=64)
def fit_reduced(
    function: str, steps: int = 8, max_error: float = 1e-3, segments: int | None = None
) -> Reduced:
    """A few-spike neuron for a function of any number that has a value there.

    Args:
        function: ``"exp"``, ``"exp2"``, ``"reciprocal"``, ``"rsqrt"``, ``"sqrt"`` or ``"square"``.
        steps: K, 1 to 24.
        max_error: The largest error allowed, in units of the power of two taken out.
        segments: As for :func:`~spikeloom.neurons.fit_hg`.

    Raises:
        ValueError: If the function is not one of these, or the error cannot be reached.

    Example:
        >>> import torch, spikeloom
        >>> reciprocal = spikeloom.neurons.fit_reduced("reciprocal", steps=8, segments=32)
        >>> x = torch.tensor([1e-20, 3.0, 7e15])
        >>> bool(((reciprocal(x) * x - 1).abs() < 2e-4).all())
        True
    """
    if function not in MANTISSAS:
        raise ValueError(f"fit_reduced: function must be one of {', '.join(MANTISSAS)}")
    name = "exp2" if function == "exp" else function
    low, high = MANTISSAS[function]
    return Reduced(function, fit_hg(name, low, high, steps, max_error, segments))


@dataclass(frozen=True, eq=False, repr=False)
class Reduced:
    """A function by range reduction: ``scale(x) * neuron(mantissa(x)) + offset(x)``.

    The offset of a logarithm is that of the power of two, and leaves with the first spike; other
    functions have none.

    Its gradient is the function's own slope at the decoded value, of which every spike passes on
    an equal share: the mantissa's bits have no derivative.

    Args:
        function: One of those of :func:`fit_reduced`.
        neuron: What encodes the function of the mantissa.
    """

    function: str
    neuron: LinearHG
    _decoder: Neuron = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_decoder", self.neuron.decoder())

    def __call__(self, x: Tensor) -> Tensor:
        """The decoded value of every element; NaN stays NaN."""
        x = promoted(x, dict)
        mantissa, scale = self.parts(x)
        y, _ = run(self._decoder, mantissa.reshape(1, -1))
        y = y.reshape(x.shape) * scale
        y = y + _octaves(x) if self.function == "log" else y
        return self._sloped(y.to(x.dtype), x, 1)

    def spikes(self, x: Tensor) -> Tensor:
        """The weighted spikes ``[K, *]`` whose sum is the value."""
        x = promoted(x, dict)
        mantissa, scale = self.parts(x)
        y, _ = run(self.neuron, mantissa.reshape(1, -1))
        spikes = y.reshape(self.neuron.steps, *x.shape) * scale
        if self.function == "log":
            spikes[0] += _octaves(x)
        return self._sloped(spikes.to(x.dtype), x, len(spikes))

    def _sloped(self, y: Tensor, x: Tensor, spikes: int) -> Tensor:
        """The value, or so many spikes that add up to it, with the function's derivative."""
        if not (x.requires_grad and torch.is_grad_enabled()):
            return y
        value = y.detach() if spikes == 1 else y.detach().sum(0)
        return with_grad(y, (x, SLOPES[self.function](x.detach(), value) / spikes))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mantissa for the neuron, and what scales its spikes, a power of two.

        Args:
            x: Any shape; computed in float32 unless it is float64.
        """
        x = x.to(COMPUTED[x.dtype])
        if self.function in ("exp", "exp2"):
            return _whole_and_rest(x * math.log2(math.e) if self.function == "exp" else x)
        if self.function in ("rsqrt", "sqrt"):
            return _even_parts(x, -1 if self.function == "rsqrt" else 1)
        mantissa, scale = _mantissa_and_scale(x)
        if self.function == "log":
            return torch.where(x < 0, math.nan, mantissa), torch.ones_like(x)
        if self.function == "square":
            return mantissa, scale * scale
        return mantissa, scale.reciprocal().copysign(x)

    def __repr__(self) -> str:
        return f"Reduced({self.function!r}, {self.neuron})"


def _mantissa_and_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """|x| = mantissa * scale, the mantissa in [1, 2); by bits, as frexp is slow."""
    integer, fraction, bias = LAYOUT[x.dtype]
    bits = x.contiguous().view(integer)
    kept = (1 << fraction) - 1
    mantissa = ((bits & kept) | (bias << fraction)).view(x.dtype)
    scale = (bits & ((2 * bias + 1) << fraction)).view(x.dtype)
    # A NaN must not become a mantissa.
    return torch.where(x == x, mantissa, x), scale


def _octaves(x: Tensor) -> Tensor:
    """The logarithm of the power of two at or below x."""
    x = x.to(COMPUTED[x.dtype])
    exponents = torch.frexp(x).exponent - 1
    ends = torch.where(x == 0, -math.inf, math.inf)  # frexp gives these no exponent
    return torch.where((x == 0) | x.isinf(), ends, exponents * math.log(2.0)).to(x.dtype)


def _even_parts(x: Tensor, sign: int) -> tuple[Tensor, Tensor]:
    """X = mantissa * 4**e, the mantissa in [1, 4); returns it and 2**(sign * e)."""
    half, exponent = torch.frexp(x)
    e = (exponent - 1) >> 1
    mantissa = torch.ldexp(half, exponent - 2 * e)
    # The root of zero is zero, its inverse infinite, that of a negative number NaN.
    scale = torch.ldexp(torch.ones_like(x), sign * e)
    zero = x == 0
    scale = torch.where(zero, 0.0 if sign > 0 else math.inf, scale)
    mantissa = torch.where(zero, 1.0, mantissa)
    return torch.where(x < 0, math.nan, mantissa), scale


def _whole_and_rest(x: Tensor) -> tuple[Tensor, Tensor]:
    """2**x = 2**rest * scale, the rest in [0, 1)."""
    integer, fraction, bias = LAYOUT[x.dtype]
    x = x.clamp(-bias, bias + 1)
    whole = x.floor()
    # Below the smallest normal number the scale's bits are those of zero, at the top of infinity;
    # those of NaN do not matter, which the rest is as well.
    scale = ((whole + bias).to(integer) << fraction).view(x.dtype)
    return x - whole, scale
