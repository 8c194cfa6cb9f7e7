"""Ranges of a site: how often it saw which magnitudes, and the ranges that lose least of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["Observation", "choose_ranges", "short"]

LARGEST = 2.0**120  # a range may be that large, and have room beyond in float32
SHORT = 3  # significant bits of a range: sums of spikes are then exact in float32
BIN = 24 - SHORT  # bits of a float32 that do not matter for its bin
OCTAVE = 2 ** (SHORT - 1)  # bins
BINS = 32 * OCTAVE  # below the largest magnitude; what is smaller is in the last of them
LEAST = 12 * OCTAVE  # bins from the largest channel's outermost range to any other channel's
# Ranges tried for a channel, in bins from its largest magnitude: up to an octave beyond.
TRIED = torch.arange(-11 * OCTAVE, OCTAVE + 1, OCTAVE // 2)
DRAWN = 4  # magnitudes of a bin that stand for all in it
CHUNK = 2**20  # values that are counted at once
TOGETHER = 512  # channels whose ranges are chosen at once


class Observation:
    """What a site saw during calibration: how often which magnitudes, channel by channel.

    A bin is a quarter of an octave. Counts are whole numbers, so neither the order of the batches
    nor what they are split into changes the result.

    Args:
        bound: The least that the largest magnitude is taken for.

    Attributes:
        peaks: The largest magnitude of each channel; None before any value was seen.
        counts: ``[bins, channels]``, from the smallest magnitudes to the largest.
        top: The bin in which the next larger magnitude would be, counted from zero.
    """

    def __init__(self, bound: float = 0.0) -> None:
        self.bound = bound
        self.peaks: Tensor | None = None
        self.counts = torch.zeros(BINS, 1, dtype=torch.int64)
        self.top = BINS

    @property
    def largest(self) -> float:
        """The largest magnitude, or the bound; 1 if there is neither."""
        seen = 0.0 if self.peaks is None else float(self.peaks.max())
        return max(self.bound, seen) or 1.0

    def see(self, name: str, rows: Tensor) -> None:
        """Count the values of rows ``[n, channels]``."""
        if not rows.numel():
            return
        magnitudes = rows.detach().abs()
        peaks = magnitudes.amax(0).double().cpu()
        largest = float(peaks.max())
        if not math.isfinite(largest):
            raise ValueError(f"calibration: the input of {name} holds NaN or infinity")
        if largest > LARGEST:
            raise ValueError(
                f"calibration: the input of {name} reaches {largest:g}, and ranges are float32; "
                f"scale the model's values down"
            )
        if self.peaks is None:
            self.fill(len(peaks), self.top)
        assert self.peaks is not None
        self.peaks = torch.maximum(self.peaks, peaks)
        self.reach(max(largest, self.bound))
        length = max(CHUNK // len(peaks), BINS)
        for some in magnitudes.split(length):
            self.counts += self._counted(some.float())

    def _counted(self, magnitudes: Tensor) -> Tensor:
        channels = magnitudes.shape[1]
        place = (bin_of(magnitudes).long() - self.top + BINS).clamp_(0, BINS - 1)
        place = place * channels + torch.arange(channels, device=place.device)
        return place.flatten().bincount(minlength=self.counts.numel()).cpu().view(BINS, channels)

    def reach(self, largest: float) -> None:
        """Let the bins reach to this magnitude; those that leave are counted in the last."""
        self._rise(int(bin_of(short(torch.tensor(largest)))))

    def _rise(self, top: int) -> None:
        if (new := min(top - self.top, BINS - 1)) > 0:
            lost = self.counts[:new].sum(0)
            self.counts = torch.cat([self.counts[new:], torch.zeros_like(self.counts[:new])])
            self.counts[0] += lost
        self.top = max(top, self.top)

    def fill(self, channels: int, top: int) -> None:
        """Take the form of observations of so many channels that reach to this bin.

        Args:
            channels: How many.
            top: The bin in which the next larger magnitude would be.
        """
        if self.peaks is None:
            self.peaks = torch.zeros(channels, dtype=torch.float64)
            self.counts = torch.zeros(BINS, channels, dtype=_counting(channels))
        self._rise(top)

    def forget_channels(self) -> None:
        """Take all values for those of one channel."""
        if self.peaks is None:
            return
        self.peaks, self.counts = self.peaks.amax(0, keepdim=True), self.counts.sum(1, keepdim=True)

    def typical(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Magnitudes ``[n, channels]`` of each bin, and how often each of them was seen."""
        channels = self.counts.shape[1]
        drawn = torch.Generator().manual_seed(0)
        edges = edge_of(torch.arange(self.top - BINS, self.top + 1)).tolist()
        for number, (low, high) in enumerate(pairwise(edges)):
            count = self.counts[number]
            if bool(count.any()):
                share = torch.rand(DRAWN, channels, generator=drawn)
                # Those of the last bin are too small to be told from zero.
                values = low + share * (high - low) if number else torch.zeros_like(share)
                yield values, (count / DRAWN).expand(DRAWN, channels)


def _counting(channels: int) -> torch.dtype:
    """In which values are counted: of one channel there may be more than 32 bits count."""
    return torch.int64 if channels == 1 else torch.int32


def choose_ranges(observation: Observation, steps: int, between: int) -> list[Tensor]:
    r"""The ranges with the least expected squared error for K steps.

    A value in a range V is rounded to multiples of ``LSB = V * 2**-K``: its squared error is that
    of a uniform rounding, ``LSB**2 / 12``, or the value's own square if it is below half an LSB
    and lost. All ranges but the outermost are chosen for each channel.

    Args:
        observation: What the site saw.
        steps: K.
        between: How many ranges to put between the innermost and the outermost.

    Returns:
        Tensors ``[channels]``, then a 0-d one; each of at most 3 significant bits.
    """
    observation.reach(observation.largest)
    top, counts = observation.top, observation.counts.double()
    peaks = torch.zeros(1) if observation.peaks is None else observation.peaks.float()
    own = bin_of(short(peaks)).long().clamp(top - LEAST, top)
    # What calibration has not seen: once each, values up to an octave beyond the largest.
    for beyond in (OCTAVE // 2, OCTAVE):
        place = (own - top + BINS + beyond - 1).clamp(max=BINS - 1)
        counts[place, torch.arange(len(own))] += 1
    parts = zip(counts.split(TOGETHER, 1), own.split(TOGETHER), strict=True)
    chosen = [_inner_ranges(*part, top, steps, between + 1) for part in parts]
    return [*(torch.cat(some) for some in zip(*chosen, strict=True)), edge_of(torch.tensor(top))]


def _inner_ranges(counts: Tensor, own: Tensor, top: int, steps: int, number: int) -> list[Tensor]:
    """So many ranges below the tensor's for some channels, by dynamic programming.

    Args:
        counts: ``[bins, channels]``.
        own: The bin above each channel's largest magnitude.
        top: As for :class:`Observation`.
        steps: K.
        number: How many.
    """
    tried = own[:, None] + TRIED
    # The last range is the tensor's, and beyond all others.
    ends = torch.cat([tried, torch.full_like(own, top)[:, None]], 1)
    costs = _costs(counts, ends, top, steps)
    costs[:, :, :-1].masked_fill_((tried >= top)[:, None], math.inf)
    best, chosen = costs[:, 0], []
    for _ in range(number):
        best, place = (best[:, :, None] + costs[:, 1:]).min(1)
        chosen.append(place)
    at = torch.full_like(own, tried.shape[1])
    ranges = []
    for place in reversed(chosen):
        at = place.gather(1, at[:, None])[:, 0]
        ranges.append(edge_of(tried.gather(1, at[:, None])[:, 0]))
    return ranges[::-1]


def _costs(counts: Tensor, ends: Tensor, top: int, steps: int) -> Tensor:
    """Expected squared errors of the values between two ends, in the range up to the second.

    Args:
        counts: ``[bins, channels]``.
        ends: Bins at which a range may end, ``[channels, ends]``.
        top: As for :class:`Observation`.
        steps: K.

    Returns:
        ``[channels, ends + 1, ends]``: from zero and from each end, to each end.
    """
    edges = edge_of(torch.arange(top - BINS, top + 1)).double()
    low, high = edges[:-1, None], edges[1:, None]
    squares = counts * (low * low + low * high + high * high) / 3
    until = [nn.functional.pad(x.cumsum(0), (0, 0, 1, 0)).T for x in (counts, squares)]
    place = (ends - top + BINS).clamp(max=BINS)
    lost = (place - OCTAVE * (steps + 1)).clamp(min=0)  # half an LSB
    (n_high, s_high), (n_lost, s_lost) = ([x.gather(1, i) for x in until] for i in (place, lost))
    n_low, s_low = (nn.functional.pad(x, (1, 0))[:, :, None] for x in (n_high, s_high))
    rounded = (edge_of(ends).double() * 2.0**-steps).square() / 12
    costs = (s_lost[:, None] - s_low).clamp(min=0)
    costs += (n_high[:, None] - torch.maximum(n_lost[:, None], n_low)) * rounded[:, None]
    first = nn.functional.pad(place, (1, 0))[:, :, None]
    return costs.masked_fill_(first >= place[:, None], math.inf)


def short(values: Tensor) -> Tensor:
    """The next larger number of few significant bits."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.ceil(mantissa * 2.0**SHORT) * 2.0**-SHORT, exponent)


def bin_of(magnitudes: Tensor) -> Tensor:
    """The bin of float32 magnitudes, counted from zero: their exponent and leading bits."""
    return magnitudes.contiguous().view(torch.int32) >> BIN


def edge_of(bins: Tensor) -> Tensor:
    """The magnitude at which a bin begins."""
    return (bins.int() << BIN).view(torch.float32)
