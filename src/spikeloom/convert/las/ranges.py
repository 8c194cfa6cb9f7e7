"""Ranges of a site: a sample of what it saw, and those that lose least of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Observation", "choose_ranges", "short"]

ROWS = 1024  # of activations kept from each site
SHORT = 8  # significant bits of a range: sums of spikes are then exact in float32
LARGEST = 2.0**120  # a range may be that large, and have room beyond in float32
CANDIDATES = 2.0 ** (-torch.arange(0, 26) / 4)  # ranges tried, as shares of the largest value


class Observation:
    """What a site saw during calibration: a sample of rows, and the largest magnitude.

    Args:
        bound: The least that the largest magnitude is taken for.
    """

    def __init__(self, bound: float = 0.0) -> None:
        self.rows: list[Tensor] = []
        self._keys: list[Tensor] = []  # of random order, a number for each row
        self.largest = bound
        self._draw = torch.Generator().manual_seed(0)

    def see(self, name: str, rows: Tensor) -> None:
        """Keep a sample of rows ``[n, channels]``."""
        if not rows.numel():
            return
        rows = rows.detach()
        largest = float(rows.abs().amax())
        if not math.isfinite(largest):
            raise ValueError(f"calibration: the input of {name} holds NaN or infinity")
        if largest > LARGEST:
            raise ValueError(
                f"calibration: the input of {name} reaches {largest:g}, and ranges are float32; "
                f"scale the model's values down"
            )
        self.largest = max(self.largest, largest)
        chosen = torch.randperm(len(rows), generator=self._draw)[: ROWS // 4].to(rows.device)
        self.rows.append(rows[chosen].float().cpu())
        self._keys.append(torch.rand(len(chosen), generator=self._draw))
        if sum(map(len, self.rows)) > 2 * ROWS:
            self._thin()

    def forget_channels(self) -> None:
        """Take all values for those of one channel."""
        rows = torch.cat(self.rows).reshape(-1, 1)
        self.rows, self._keys = [rows], [torch.rand(len(rows), generator=self._draw)]
        self._thin()

    def _thin(self) -> None:
        """Keep ``ROWS`` of the rows, by chance: those with the smallest keys."""
        rows, keys = torch.cat(self.rows), torch.cat(self._keys)
        kept = keys.argsort()[:ROWS]
        self.rows, self._keys = [rows[kept]], [keys[kept]]

    def sample(self) -> Tensor:
        """At most ``ROWS`` rows."""
        self._thin()
        return self.rows[0]


def choose_ranges(sample: Tensor, largest: float, steps: int, between: int) -> list[Tensor]:
    r"""The ranges with the least expected squared error for K steps.

    A value in a range V is rounded to multiples of ``LSB = V * 2**-K``: its squared error is that
    of a uniform rounding, ``LSB**2 / 12``, or the value's own square if it is below half an LSB
    and lost. The innermost range is chosen for each channel, those between for the tensor.

    Args:
        sample: ``[n, channels]``.
        largest: The outermost range.
        steps: K.
        between: How many ranges to put between, 0 or 1.

    Returns:
        ``[channels]``, then 0-d tensors; each of at most 8 significant bits.
    """
    if not largest > 0:
        largest = 1.0
    outlier = short(torch.tensor(largest))
    a = sample.abs().T.contiguous().sort(1).values
    own = a[:, -1:].clamp(min=largest * 2.0**-12)
    inner = torch.minimum(short(own * CANDIDATES), short(outlier * 0.75))
    best: tuple[float, list[Tensor]] | None = None
    for middle in short(outlier * CANDIDATES[2:-4:2]) if between else [None]:
        outer = outlier if middle is None else middle
        tried = torch.minimum(inner, short(outer * 0.75))
        errors = _expected(a, tried, outer, outlier, steps)
        least, place = errors.min(1)
        if best is None or float(least.sum()) < best[0]:
            normal = tried.gather(1, place[:, None])[:, 0]
            best = float(least.sum()), [normal, *([] if middle is None else [middle]), outlier]
    assert best is not None
    return best[1]


def _expected(a: Tensor, normal: Tensor, middle: Tensor, outlier: Tensor, steps: int) -> Tensor:
    """Sum of squared errors ``[channels, candidates]`` of sorted magnitudes ``[channels, n]``."""
    squares = nn.functional.pad(a.double().square().cumsum(1), (1, 0))

    def up_to(bound: Tensor) -> tuple[Tensor, Tensor]:
        count = torch.searchsorted(a, bound.expand(len(a), -1).contiguous())
        return count.double(), squares.gather(1, count)

    def lost_or_rounded(low: Tensor, high: Tensor) -> Tensor:
        unit = high * 2.0**-steps
        gone = torch.maximum(torch.minimum(unit / 2, high), low)
        (_, s_low), (n_gone, s_gone), (n_high, _) = up_to(low), up_to(gone), up_to(high)
        return (s_gone - s_low) + (n_high - n_gone) * unit.double().square() / 12

    zero = torch.zeros_like(normal)
    total = lost_or_rounded(zero, normal) + lost_or_rounded(normal, middle.expand_as(normal))
    if middle is not outlier:
        total = total + lost_or_rounded(middle.expand_as(normal), outlier.expand_as(normal))
    return total


def short(values: Tensor) -> Tensor:
    """The next larger number of few significant bits."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.ceil(mantissa * 2.0**SHORT) * 2.0**-SHORT, exponent)
