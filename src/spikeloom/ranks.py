"""Several processes of ``torch.distributed`` that do one piece of work.

They are told apart by their rank. What all of them have to know goes through :func:`gathered`,
whatever it is: so a rank that fails can say so in the place of its answer, and no other one waits
for it. Tensors are added up where they are, after such an exchange.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed

from spikeloom.sent import packed, unpacked

__all__ = [
    "RankFailed",
    "added_up",
    "exchanged",
    "first_of_all",
    "gathered",
    "is_shared",
    "is_together",
    "largest",
    "number",
    "size",
    "together",
]

Item = TypeVar("Item")

_together: ContextVar[bool] = ContextVar("together", default=False)


class RankFailed(RuntimeError):
    """Another process failed at work that all of them share, which its message names."""


class _Failure(NamedTuple):
    """What a rank that fails says in the place of its answer."""

    rank: int
    error: str


def is_shared() -> bool:
    """Whether there are several processes."""
    is_ready = distributed.is_available() and distributed.is_initialized()
    return is_ready and distributed.get_world_size() > 1


def is_together() -> bool:
    """Whether this runs in a block of :func:`together`."""
    return _together.get()


def number() -> int:
    """The rank of this process."""
    return distributed.get_rank() if is_shared() else 0


def size() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if is_shared() else 1


@contextmanager
def together() -> Iterator[None]:
    """Work that all processes do, or none.

    A process that fails in the block raises its own error. All others raise :class:`RankFailed`,
    with the rank and the error, at the next exchange or at the end of the block. A process that
    dies without a word is noticed when its connection breaks, or by the time-out of the group (see
    ``timeout`` of ``torch.distributed.init_process_group``). In one process, and inside another
    block, it does nothing.
    """
    if not is_shared() or is_together():
        yield
        return
    token = _together.set(True)
    try:
        yield
        gathered(None)
    except RankFailed:
        raise
    except BaseException as error:
        with suppress(RankFailed):
            _exchange(_Failure(distributed.get_rank(), f"{type(error).__name__}: {error}"))
        raise
    finally:
        _together.reset(token)


def gathered(value: Item) -> list[Item]:
    """What every process has, in the order of the ranks.

    Args:
        value: What this process has; as :func:`spikeloom.sent.packed`.

    Raises:
        RankFailed: If a process failed instead.
    """
    if not is_shared():
        return [value]
    values = _exchange(value)
    for found in values:
        if isinstance(found, _Failure):
            raise RankFailed(f"rank {found.rank} failed, so all ranks stop: {found.error}")
    return values


def _exchange(value: Any) -> list[Any]:
    values: list[Any] = [None] * distributed.get_world_size()
    try:
        distributed.all_gather_object(values, packed(value))
    except RuntimeError as error:
        raise RankFailed(
            f"a rank has ended or did not answer within the time-out of the process group, so rank "
            f"{distributed.get_rank()} stops: {error}"
        ) from error
    return [unpacked(found) for found in values]


def added_up(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, which all give one of the same shape.

    Args:
        values: On any device; the sum is there too.
    """
    return _reduced(values, "SUM")


def largest(values: Tensor) -> Tensor:
    """The largest of each value of a tensor over all processes, as :func:`added_up`."""
    return _reduced(values, "MAX")


def _reduced(values: Tensor, operation: str) -> Tensor:
    if not is_shared():
        return values
    # What the group sends: gloo and MPI send from the host, NCCL from the device.
    is_host = distributed.get_backend() in ("gloo", "mpi")
    device = torch.device("cpu") if is_host else torch.accelerator.current_accelerator()
    result = values.detach().to(device, copy=True).contiguous()
    distributed.all_reduce(result, getattr(distributed.ReduceOp, operation))
    return result.to(values.device)


def first_of_all(name: str, items: Iterable[Item]) -> tuple[Item, bool, Iterator[Item]]:
    """The first item of the first process that has one.

    Args:
        name: The argument that the items come from, for errors.
        items: Those of this process, maybe none.

    Returns:
        The item, whether it is this process's own, and all items of this process.

    Raises:
        ValueError: If no process has one.
        RankFailed: As :func:`gathered`.
    """
    own = iter(items)
    head = list(islice(own, 1))
    holders = [rank for rank, has_one in enumerate(gathered(bool(head))) if has_one]
    if not holders:
        raise ValueError(f"{name}: no process has a batch; give at least one of them one")
    first = exchanged(dict(enumerate(head)), {0: holders[0]})[0]
    return first, number() == holders[0], chain(head, own)


def exchanged(own: Mapping[Any, Item], owners: Mapping[Any, int]) -> dict[Any, Item]:
    """Items by key, each of them sent by the process that has it to all others.

    Args:
        own: Those that this process has; as :func:`spikeloom.sent.packed`.
        owners: The rank of each item's owner, in the same order on all processes.

    Raises:
        RankFailed: As :func:`gathered`.
    """
    gathered(None)  # all have got so far
    if not is_shared():
        return {key: own[key] for key in owners}
    found = {}
    for key, owner in owners.items():
        is_own = owner == distributed.get_rank()
        held = [packed(own[key]) if is_own else b""]
        distributed.broadcast_object_list(held, owner)
        found[key] = own[key] if is_own else unpacked(held[0])
    return found
