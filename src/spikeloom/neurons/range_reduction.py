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
from types import ModuleType

import torch
from torch import Tensor

from spikeloom.kernel.call import COMPUTED, run
from spikeloom.kernel.pointwise import Pointwise
from spikeloom.kernel.promotion import promoted
from spikeloom.kernel.vocabulary import with_grad
from spikeloom.neurons import octaves_by_bits, octaves_by_comparison
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


@lru_cache(maxsize=64)
def fit_reduced(
    function: str, steps: int = 8, max_error: float = 1e-3, segments: int | None = None
) -> Reduced:
    """A few-spike neuron for a function of any number that has a value there.

    Args:
        function: ``"exp"``, ``"exp2"``, ``"log"``, ``"reciprocal"``, ``"rsqrt"``, ``"sqrt"`` or
            ``"square"``.
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
    _decoder: Pointwise = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_decoder", Pointwise(self.neuron.decoder()))

    def __call__(self, x: Tensor) -> Tensor:
        """The decoded value of every element; NaN stays NaN."""
        x = promoted(x, dict)
        mantissa, scale = self.parts(x)
        y = self._decoder(mantissa)
        if y is None:
            y, _ = run(self._decoder.neuron, mantissa.reshape(1, -1))
        y = y.reshape(x.shape) * scale
        y = y + _octaves().logarithm(x.to(COMPUTED[x.dtype])) if self.function == "log" else y
        return self._sloped(y.to(x.dtype), x, 1)

    def spikes(self, x: Tensor) -> Tensor:
        """The weighted spikes ``[K, *]`` whose sum is the value."""
        x = promoted(x, dict)
        mantissa, scale = self.parts(x)
        y, _ = run(self.neuron, mantissa.reshape(1, -1))
        spikes = y.reshape(self.neuron.steps, *x.shape) * scale
        if self.function == "log":
            spikes[0] += _octaves().logarithm(x.to(COMPUTED[x.dtype]))
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
        x, octaves = x.to(COMPUTED[x.dtype]), _octaves()
        if self.function in ("exp", "exp2"):
            return octaves.whole_and_rest(x * math.log2(math.e) if self.function == "exp" else x)
        if self.function in ("rsqrt", "sqrt"):
            return octaves.even_parts(x, -1 if self.function == "rsqrt" else 1)
        mantissa, scale = octaves.mantissa_and_scale(x)
        if self.function == "log":
            return torch.where(x < 0, math.nan, mantissa), torch.ones_like(x)
        if self.function == "square":
            return mantissa, scale * scale
        return mantissa, scale.reciprocal().copysign(x)

    def __repr__(self) -> str:
        return f"Reduced({self.function!r}, {self.neuron})"


def _octaves() -> ModuleType:
    """What splits off a power of two: ONNX has no operator that sees the bits of a number."""
    return octaves_by_comparison if torch.onnx.is_in_onnx_export() else octaves_by_bits
