"""Calibration by several processes: each sees its share of the batches.

What sites count is whole numbers, so the ranges are those of one process that sees all batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from spikeloom.calibrate import Batch, batches
from spikeloom.convert.las.calls.kinds import Product
from spikeloom.convert.las.layers import Activation
from spikeloom.convert.las.ranges import Observation
from spikeloom.convert.las.sites import Site
from spikeloom.ranks import added_up, first_of_all, gathered, is_shared, largest

__all__ = ["add_up", "calls_of_rank", "forget_all", "new_forget"]

OBSERVERS = (Site, Activation, Product)


def calls_of_rank(model: nn.Module, calibration: Any, progress: bool) -> tuple[list[Batch], bool]:
    """The calls for this process, which all begin with the same one.

    Args:
        model: Whose forward they are for.
        calibration: The batches of this process; with several processes it may be empty.
        progress: Show a bar.

    Returns:
        The calls, and whether the first is the process's own rather than another one's.

    Raises:
        TypeError: As :func:`spikeloom.calibrate.batches`.
        ValueError: Likewise; with several processes if none has a batch.
    """
    given = batches(model, calibration, progress=progress, required=not is_shared())
    if not is_shared():
        return list(given), True
    first, is_own, calls = first_of_all("calibration", given)
    return [*calls] if is_own else [first, *calls], is_own


@contextmanager
def new_forget(network: nn.Module, is_wanted: bool) -> Iterator[None]:
    """Let what the block makes in a network forget what it saw there.

    Args:
        network: In calibration.
        is_wanted: Whether it is to forget.
    """
    known = {module for module in network.modules() if isinstance(module, OBSERVERS)}
    yield
    for module in network.modules():
        if is_wanted and module not in known:
            _forget(module)


def forget_all(network: nn.Module) -> None:
    """Let a network forget what it saw of a batch that another process counts."""
    for module in network.modules():
        _forget(module)


def _forget(module: nn.Module) -> None:
    if isinstance(module, Site):
        assert module.observation is not None
        module.observation, module.calibrated = Observation(module.observation.bound), 0
    elif isinstance(module, Activation):
        module.low = module.high = 0.0
    elif isinstance(module, Product):
        module.multiply_adds = 0


def add_up(network: nn.Module) -> None:
    """Let every site and table of a network know what those of all processes saw.

    Counts are added up and peaks compared where they are: however many processes there are, each
    sends and keeps what one site holds.

    Args:
        network: After the calibration of every process.

    Raises:
        ValueError: If a process reached a place that another did not.
    """
    if not is_shared():
        return
    observers = {n: m for n, m in network.named_modules() if isinstance(m, OBSERVERS)}
    of_ranks = gathered({name: _facts(module) for name, module in observers.items()})
    everywhere = set(of_ranks[0]).intersection(*of_ranks)
    for rank, own in enumerate(of_ranks):
        if more := [name for name in own if name not in everywhere]:
            raise ValueError(
                f"calibration: the batches of rank {rank} reached {more[0]!r}, those of others did "
                f"not; give every process batches that use the same parts of the model"
            )
    for name in sorted(everywhere):
        _share(observers[name], [own[name] for own in of_ranks])


def _facts(module: nn.Module) -> tuple[Any, ...]:
    """What a process says of a site or table, but for counts and peaks."""
    if isinstance(module, Activation):
        return module.low, module.high
    if isinstance(module, Product):
        return (module.multiply_adds,)
    assert isinstance(module, Site) and module.observation is not None
    seen = module.observation
    features = None if seen.peaks is None else len(seen.peaks)
    return module.channels, module.heads, module.calibrated, seen.top, features


def _share(module: nn.Module, of_ranks: list[tuple[Any, ...]]) -> None:
    """Let a site or table know what all processes say of it.

    Args:
        module: This process's.
        of_ranks: The facts of each process's.
    """
    facts = list(zip(*of_ranks, strict=True))
    if isinstance(module, Activation):
        module.low, module.high = min(facts[0]), max(facts[1])
    elif isinstance(module, Product):
        module.multiply_adds = sum(facts[0])
    elif isinstance(module, Site):
        shapes, heads, values, tops, features = facts
        lengths = {length for length in features if length is not None}
        # Places rather than features, if one process saw other numbers of them than another.
        module.channels = () if len(lengths) > 1 else min(shapes, key=len)
        module.heads, module.calibrated = max(heads), sum(values)
        seen = module.observation
        assert seen is not None
        if not module.channels:
            seen.forget_channels()
            lengths = {1} if lengths else lengths
        if lengths:
            seen.fill(lengths.pop(), max(tops))
            assert seen.peaks is not None
            seen.peaks, seen.counts = largest(seen.peaks), added_up(seen.counts)
