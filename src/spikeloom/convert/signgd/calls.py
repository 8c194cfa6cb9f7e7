"""The calibration data of all processes, as a conversion asks for them.

Every process has its own batches, and learns of the others' only what the conversion needs: the
samples that are drawn of all, and the largest magnitudes. So all convert alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from spikeloom.convert.signgd.entry import largest
from spikeloom.convert.signgd.portions import have_one_length, is_batched, length
from spikeloom.convert.signgd.sampling import drawn, have_same_numbers, put_together
from spikeloom.ranks import gathered, is_shared, number

__all__ = ["Calls"]


class Calls:
    """Flat arguments of calls.

    Args:
        own: Those of this process's batches, maybe none.
        first: Those of the first batch of all.
        are_shared: Whether other processes have further ones; if not, all have these.
    """

    def __init__(self, own: list[list[Any]], first: list[Any], are_shared: bool = True) -> None:
        self.own, self.first, self.are_shared = own, first, are_shared

    def count(self) -> int:
        """How many samples all processes have."""
        return max(1, sum(gathered(sum(map(length, self.own)))))

    def have_one_length(self) -> bool:
        """Whether the tensors of each call have equally many samples."""
        return all(gathered(have_one_length(self.own)))

    def are_alike(self) -> bool:
        """Whether there are several samples, and all are the same."""
        equal = [_is_all(value, first) for call in self.own for value, first in _pairs(call, self)]
        return self.count() > 1 and all(gathered(all(equal)))

    def largest(self) -> tuple[float, ...]:
        """The largest magnitude of each argument."""
        own = [max(map(largest, values)) for values in zip(*self.to_watch(), strict=True)]
        return tuple(map(max, zip(*gathered(own), strict=True)))

    def spread(self, count: int) -> list[Any]:
        """Flat inputs of some samples, spread over those of all calls.

        A call whose values without a batch axis are not those of the first is left out.

        Args:
            count: How many samples; all, if there are fewer.
        """
        calls = [call for call in self.own if have_same_numbers(call, self.first)]
        lengths = gathered(sum(map(length, calls)))
        before = sum(lengths[: number()])
        own = drawn(calls, before, sum(lengths), count)
        if is_shared():
            parts = [part for parts in gathered(own) for part in parts]
            own = [_as_of(part, self.first) for part in parts]
        return put_together(own)

    def to_watch(self) -> Sequence[list[Any]]:
        """This process's calls; without any the first of all, which changes no maximum."""
        return self.own or [self.first]


def _pairs(call: list[Any], calls: Calls) -> list[tuple[Tensor, Tensor]]:
    pairs = zip(call, calls.first, strict=True)
    return [(value, first) for value, first in pairs if is_batched(value)]


def _is_all(values: Tensor, first: Any) -> bool:
    """Whether all samples are the first one."""
    is_like = isinstance(first, Tensor) and first.shape[1:] == values.shape[1:]
    return is_like and bool((values == first[:1].to(values.device)).all())


def _as_of(part: list[Any], first: list[Any]) -> list[Any]:
    """Values on the devices of the first call's."""
    return [
        value.to(like.device) if isinstance(value, Tensor) else value
        for value, like in zip(part, first, strict=True)
    ]
