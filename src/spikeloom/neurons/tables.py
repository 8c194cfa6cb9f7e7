r"""Tables for gated few-spike neurons, generated from the function itself: nothing is trained.

A function is cut into straight pieces, each of which a few-spike neuron encodes in K bits. The
error of a piece of width w and slope s has two parts: the distance of the function from the line,
and half of the K-bit grid,

.. math:: e = \max |f - \text{line}| + |s|\,w\,2^{-K} / 2

Pieces are chosen so that this sum, not the first part alone, stays within the error asked for:
long and nearly straight pieces fit well and quantise badly. The half LSB lies in the piece's
constant, so that the last code errs no more than the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spikeloom.kernel.call import run
from spikeloom.neurons.arguments import checked_number, checked_steps
from spikeloom.neurons.gated import LinearHG
from spikeloom.pictures import drawn

__all__ = ["FUNCTIONS", "REACH", "checked_segments", "draw_hg", "fit_hg", "gelu_tanh"]

Function = Callable[[Tensor], Tensor]


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh form, as GPT-2 computes it."""
    return torch.nn.functional.gelu(x, approximate="tanh")


FUNCTIONS: dict[str, Function] = {
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": gelu_tanh,
    "log": torch.log,
    "mish": torch.nn.functional.mish,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "reciprocal": torch.reciprocal,
    "relu": torch.relu,
    "rsqrt": torch.rsqrt,
    "sigmoid": torch.sigmoid,
    "silu": torch.nn.functional.silu,
    "softplus": torch.nn.functional.softplus,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tanh": torch.tanh,
}

# Functions that become the identity far out, and zero on the other side -> from which magnitude.
REACH = {
    "gelu": 6.0,
    "gelu_tanh": 6.0,
    "mish": 20.0,
    "quick_gelu": 8.0,
    "relu": 2.0**-10,
    "silu": 16.0,
    "softplus": 16.0,
}

# Edges lie on a grid of this fraction of the range: short numbers, so that sums are exact. The
# finer grids are for functions that bend sharply.
GRIDS = (2.0**-12, 2.0**-15, 2.0**-18)
MOST_PIECES = 4096
SAMPLES = 64  # of a piece while it grows
DENSE = 4096  # of a piece when its error is declared; holds every code up to K = 12
MARGIN = 1e-3  # of the error, for what lies between samples


def fit_hg(
    function: str | Function,
    low: float,
    high: float,
    steps: int = 8,
    max_error: float = 1e-3,
    segments: int | None = None,
    zero_below: float | None = None,
    identity_above: float | None = None,
    strict: bool = True,
    tie: str = "gt",
    focus: float | None = None,
) -> LinearHG:
    """A gated few-spike neuron that computes a function, its error declared and checked.

    Args:
        function: A name in :data:`FUNCTIONS`, or an elementwise function of a float64 tensor.
        low: Where the range begins.
        high: Where it ends.
        steps: K, 1 to 24.
        max_error: The largest absolute error allowed. The fewest pieces that keep it are taken.
        segments: Take at most so many pieces instead, with the least error they reach.
        zero_below: Below it the function is taken to be zero, in one silent piece.
        identity_above: From here on the function is taken to be the identity, as GELU and SiLU
            nearly are: two pieces an octave encode the value itself, to a relative error of
            ``2**-(K+2)`` and the distance of the function from the identity.
        strict: As for :class:`~spikeloom.neurons.HG`: NaN outside the range, or held at its end.
        tie: As for :class:`~spikeloom.neurons.HG`.
        focus: With ``segments``: half of them go to magnitudes up to this one, where most values
            are; a quarter to each side.

    Returns:
        A neuron whose ``errors`` holds the declared error of each piece and ``max_error`` the
        largest; no output differs from the function by more (measured in float64 at 4097 places of
        each piece, on both sides of every code, float32 rounding included).

    Raises:
        TypeError: If ``function`` is no function or an argument no number.
        ValueError: If the name is unknown, the range is empty, the function is not finite on it,
            or K steps and float32 cannot reach the error.

    Example:
        >>> import torch, spikeloom
        >>> gelu = spikeloom.neurons.fit_hg("gelu", -6.0, 6.0, steps=8, max_error=2e-3)
        >>> x = torch.linspace(-6, 6, 1001)
        >>> y, _ = spikeloom.run(gelu, x[None], reduce="sum")
        >>> bool((y - torch.nn.functional.gelu(x)).abs().max() <= gelu.max_error <= 2e-3)
        True
    """
    f = _function(function)
    checked_steps("fit_hg", steps)
    first = low if zero_below is None else zero_below
    last = high if identity_above is None else identity_above
    _check_range(low=low, zero_below=first, identity_above=last, high=high)
    _check_finite(f, low, high)
    silent = [] if first == low else [Piece(low, first, 0.0, 0.0, 0.0)]
    tail = [] if last == high else _octaves(last, high)
    if segments is not None:
        checked_segments("fit_hg: segments", segments)
        most = _at_least_one(segments - len(tail) - len(silent))
        pieces = _focused(f, first, last, steps, most, focus)
    else:
        pieces = _within(f, first, last, steps, max_error)
    pieces += [Piece(left, right, right - left, left, 0.0) for left, right in tail]
    return _declared(f, silent + pieces, steps, strict, tie)


class Piece(NamedTuple):
    """A straight piece: the line from ``base`` at ``left`` to ``base + rise`` at ``right``."""

    left: float
    right: float
    rise: float
    base: float
    fit: float

    def error(self, steps: int) -> float:
        """The bound that the search keeps: fit and half an LSB."""
        return self.fit + abs(self.rise) * 2.0 ** -(steps + 1)


def _line(f: Function, left: float, right: float) -> Piece:
    """The line of least maximum error with the slope of the chord."""
    x = torch.linspace(left, right, SAMPLES + 1, dtype=torch.float64)
    y = f(x).numpy()
    rise = float(y[-1] - y[0])
    apart = y - (y[0] + rise * np.linspace(0.0, 1.0, SAMPLES + 1))
    most, least = float(apart.max()), float(apart.min())
    return Piece(left, right, rise, float(y[0]) + (most + least) / 2, (most - least) / 2)


def _cut(
    f: Function, low: float, high: float, steps: int, error: float, most: int, grid: float
) -> list[Piece] | None:
    """Pieces as long as the error allows, from left to right; None if they are too many."""
    places = [low, *np.arange(np.floor(low / grid) + 1, np.ceil(high / grid)) * grid, high]
    pieces: list[Piece] = []
    start, last, stride = 0, len(places) - 1, len(places) // 16 + 1
    while start < last:
        if len(pieces) == most:
            return None
        fits, fails, best = start, last + 1, None
        # First around the length of the piece before, then by halving.
        probe = min(start + stride, last)
        while fails - fits > 1:
            piece = _line(f, places[start], places[probe])
            if piece.error(steps) <= error:
                fits, best = probe, piece
            else:
                fails = probe
            unbounded = fails > last and fits < last
            probe = min(2 * probe - start, last) if unbounded else (fits + fails) // 2
            if fits == last:
                break
        if best is None:
            return None
        pieces.append(best)
        start, stride = fits, max(1, fits - start)
    return pieces


def _grid(low: float, high: float, fraction: float) -> float:
    return float(2.0 ** np.ceil(np.log2(high - low))) * fraction


def _within(f: Function, low: float, high: float, steps: int, error: float) -> list[Piece]:
    """The fewest pieces that keep the error."""
    error = checked_number("fit_hg: max_error", error, "must be positive", lambda error: error > 0)
    target = error * (1 - 4 * MARGIN) - _rounding(f, low, high)
    for fraction in GRIDS if target > 0 else ():
        pieces = _cut(f, low, high, steps, target, MOST_PIECES, _grid(low, high, fraction))
        if pieces is not None:
            return pieces
    raise ValueError(
        f"fit_hg: max_error={error:g} cannot be reached on [{low:g}, {high:g}] with {steps} steps "
        f"and at most {MOST_PIECES} pieces in float32; allow more error or take more steps"
    )


def _fewest_errors(f: Function, low: float, high: float, steps: int, most: int) -> list[Piece]:
    """At most so many pieces, with the least error."""
    whole = _line(f, low, high)
    pieces, worst, best = [whole], max(whole.error(steps), 1e-30), 1e-9
    grid = _grid(low, high, GRIDS[0])
    while worst / best > 1.004:
        error = (worst * best) ** 0.5
        found = _cut(f, low, high, steps, error, most, grid)
        if found is None:
            best = error
        else:
            pieces, worst = found, max(piece.error(steps) for piece in found)
    return pieces


def _focused(
    f: Function, low: float, high: float, steps: int, most: int, focus: float | None
) -> list[Piece]:
    """At most so many pieces, with the least error in the middle and on each side."""
    if focus is None or not low < -focus < focus < high or most < 4:
        return _fewest_errors(f, low, high, steps, most)
    side = most // 4
    middle = _fewest_errors(f, -focus, focus, steps, most - 2 * side)
    below = _fewest_errors(f, low, -focus, steps, side)
    return [*below, *middle, *_fewest_errors(f, focus, high, steps, side)]


def _octaves(low: float, high: float) -> list[tuple[float, float]]:
    """Two pieces an octave."""
    edges = [low]
    while edges[-1] < high:
        mantissa, exponent = np.frexp(edges[-1])
        edges.append(float(np.ldexp(0.75 if mantissa < 0.75 else 1.0, exponent)))
    edges[-1] = high
    return list(pairwise(edges))


def _rounding(f: Function, low: float, high: float) -> float:
    """What float32 may add to the error: some units in the last place of what is added up."""
    x = torch.linspace(low, high, 257, dtype=torch.float64)
    y = f(x)
    steepest = float((y.diff() / x.diff()).abs().max())
    return 2.0**-22 * (float(y.abs().max()) + steepest * float(x.abs().max()))


def _declared(f: Function, pieces: list[Piece], steps: int, strict: bool, tie: str) -> LinearHG:
    """The neuron of the pieces, with the error that each was measured to have."""
    share = 2.0**-steps
    edges = [piece.left for piece in pieces] + [pieces[-1].right]
    rises = [piece.rise for piece in pieces]
    constants = [piece.base + piece.rise * share / 2 for piece in pieces]
    rounding = _rounding(f, edges[0], edges[-1])
    neuron = LinearHG(edges, rises, constants, steps, strict, tie)
    rows = zip(pairwise(neuron.edges), neuron.rises, neuron.constants, strict=True)
    errors = [
        _measured(f, *ends, rise, constant, steps) * (1 + MARGIN) + rounding
        for ends, rise, constant in rows
    ]
    return neuron.replace(errors=errors)


def _measured(
    f: Function, left: float, right: float, rise: float, constant: float, steps: int
) -> float:
    """The largest error of a piece, on both sides of every code."""
    place = torch.linspace(0.0, 1.0, DENSE + 1, dtype=torch.float64)
    y = f(left + (right - left) * place)
    levels = 2.0**steps
    below = (torch.ceil(place * levels) - 1).clamp(0, levels - 1)
    above = torch.floor(place * levels).clamp(0, levels - 1)
    return max(float((constant + rise / levels * c - y).abs().max()) for c in (below, above))


def _function(function: str | Function) -> Function:
    if isinstance(function, str):
        if function not in FUNCTIONS:
            raise ValueError(f"fit_hg: function {function!r} is not one of {', '.join(FUNCTIONS)}")
        return FUNCTIONS[function]
    if not callable(function):
        raise TypeError(f"fit_hg: function must be a name or a function, got {function!r}")
    return function


def _check_range(**edges: float) -> None:
    low, first, last, high = (checked_number(f"fit_hg: {n}", edge) for n, edge in edges.items())
    if not (np.isfinite([low, high]).all() and low <= first < last <= high):
        raise ValueError(
            f"fit_hg: low <= zero_below < identity_above <= high must hold and be finite, "
            f"got {', '.join(f'{name}={value:g}' for name, value in edges.items())}"
        )


def _check_finite(f: Function, low: float, high: float) -> None:
    x = torch.linspace(low, high, DENSE + 1, dtype=torch.float64)
    y = f(x)
    if not isinstance(y, Tensor) or y.shape != x.shape:
        raise TypeError("fit_hg: function must map a float64 tensor to one of the same shape")
    bad = ~torch.isfinite(y)
    if bool(bad.any()):
        raise ValueError(
            f"fit_hg: the function is not finite at {float(x[bad][0]):g}; move the range"
        )


def checked_segments(name: str, segments: Any) -> int:
    """A number of pieces, if it is a whole one of at least 1."""
    if isinstance(segments, bool) or not isinstance(segments, Integral):
        raise TypeError(f"{name} must be an int, got {segments!r}")
    if segments < 1:
        raise ValueError(f"{name} must be at least 1, got {segments}")
    return int(segments)


def _at_least_one(count: int) -> int:
    if count < 1:
        raise ValueError(f"fit_hg: segments leave {count} pieces between the tails; allow more")
    return count


def draw_hg(
    neuron: LinearHG, function: str | Function, path: str | os.PathLike[str] | None = None
) -> Any:
    """A picture of the function, its few-spike approximation and the error.

    Args:
        neuron: What :func:`fit_hg` returned.
        function: The function that it was fitted to.
        path: Save the picture there, in the format of its suffix.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: If matplotlib is missing.
    """
    x = torch.linspace(neuron.edges[0], neuron.edges[-1], 20 * DENSE, dtype=torch.float64)[1:-1]
    exact = _function(function)(x)
    (found, _) = run(neuron.decoder(), x[None])
    with drawn("draw_hg", (7, 6), path) as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        above.plot(x, exact, label="function", linewidth=3, color="0.75")
        above.plot(
            x, found[0], label=f"{len(neuron.rises)} pieces, K = {neuron.steps}", linewidth=1
        )
        above.legend()
        below.plot(x, found[0] - exact, linewidth=0.5, label="error")
        declared = np.array([*(neuron.errors or ()), np.nan])
        for sign in (-1, 1):
            below.step(neuron.edges, sign * declared, where="post", color="tab:red", linewidth=1)
        below.set(xlabel="x", ylabel="error and its declared bound")
    return figure
