"""Calibration by several processes of ``torch.distributed``: each sees its share of the batches.

What sites count is whole numbers, so the ranges are those of one process that sees all batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, distributed, nn

from spikeloom.calibrate import Batch, batches
from spikeloom.convert.las.calls.kinds import Product
from spikeloom.convert.las.layers import Activation
from spikeloom.convert.las.ranges import Observation
from spikeloom.convert.las.sites import Site

__all__ = ["add_up", "calls_of_rank", "forget_all", "new_forget"]

OBSERVERS = (Site, Activation, Product)


def _is_shared() -> bool:
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def _gathered(value: Any) -> list[Any]:
    """What every process has, in the order of the ranks."""
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


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
    if not _is_shared():
        return list(batches(model, calibration, progress=progress)), True
    if isinstance(calibration, Iterable) and not isinstance(calibration, (Tensor, Mapping)):
        calibration = list(calibration)
    is_empty = isinstance(calibration, list) and not calibration
    own = [] if is_empty else list(batches(model, calibration, progress=progress))
    firsts = _gathered(own[:1])
    rank = next((rank for rank, first in enumerate(firsts) if first), None)
    if rank is None:
        raise ValueError("calibration: no process has a batch; give at least one of them one")
    if rank == distributed.get_rank():
        return own, True
    return [*firsts[rank], *own], False


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

    Args:
        network: After the calibration of every process.

    Raises:
        ValueError: If a process reached a place that another did not.
    """
    if not _is_shared():
        return
    observers = {n: m for n, m in network.named_modules() if isinstance(m, OBSERVERS)}
    names = _gathered(list(observers))
    everywhere = set(names[0]).intersection(*names)
    for rank, own in enumerate(names):
        if more := [name for name in own if name not in everywhere]:
            raise ValueError(
                f"calibration: the batches of rank {rank} reached {more[0]!r}, those of others did "
                f"not; give every process batches that use the same parts of the model"
            )
    for name in sorted(everywhere):
        _share(observers[name])


def _share(module: nn.Module) -> None:
    if isinstance(module, Site):
        seen = _gathered((module.channels, module.heads, module.calibrated, module.observation))
        shapes, heads, values, observations = zip(*seen, strict=True)
        # Places rather than features, if one process saw other numbers of them than another.
        if len({len(o.peaks) for o in observations if o.peaks is not None}) > 1:
            shapes = ((),)
        module.channels, module.heads = min(shapes, key=len), max(heads)
        module.calibrated, module.observation = sum(values), _total(observations, module.channels)
    elif isinstance(module, Activation):
        lows, highs = zip(*_gathered((module.low, module.high)), strict=True)
        module.low, module.high = min(lows), max(highs)
    elif isinstance(module, Product):
        module.multiply_adds = sum(_gathered(module.multiply_adds))


def _total(observations: tuple[Observation, ...], channels: tuple[int, ...]) -> Observation:
    total = Observation(observations[0].bound)
    for observation in observations:
        if not channels:
            observation.forget_channels()
        total.add(observation)
    return total
