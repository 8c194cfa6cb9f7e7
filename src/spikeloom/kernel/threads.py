"""Threads that help with the parts of a call."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from queue import SimpleQueue

__all__ = ["share_out"]

Part = Callable[[int], None]


def share_out(parts: Iterable[int], do: Part, threads: int) -> None:
    """Do all parts, on several threads where there are some.

    The calling thread takes parts until none is left. A helper that comes late finds less to do,
    or nothing; one that never comes is not missed, as in a process that is about to end.

    Args:
        parts: What to do, in any order.
        do: Does one part.
        threads: How many threads, the calling one included.
    """
    left = deque(parts)
    count = len(left)
    results: SimpleQueue[BaseException | None] = SimpleQueue()

    def work() -> None:
        with suppress(IndexError):  # none is left
            while True:
                results.put(_attempt(do, left.popleft()))

    with suppress(RuntimeError):  # the interpreter ends, or the system has no more threads
        for _ in range(min(threads, count) - 1):
            _pool().submit(work)
    work()
    errors = [results.get() for _ in range(count)]
    for error in errors:
        if error is not None:
            raise error


def _attempt(do: Part, part: int) -> BaseException | None:
    """Do a part; the error that it ended in, or None."""
    try:
        do(part)
    except BaseException as error:
        return error
    return None


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="spikeloom")


# A forked child has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
