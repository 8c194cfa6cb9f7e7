"""Huge pages under large new tensors on a CPU, where Linux has them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

HUGE_PAGE = 2 * 1024 * 1024
MADV_HUGEPAGE = 14


def advise_huge_pages(fresh: Sequence[Tensor]) -> None:
    """Ask Linux for huge pages under large new tensors: touching them costs most of the time."""
    for tensor in fresh:
        size = tensor.numel() * tensor.element_size()
        advise = _madvise() if size >= HUGE_PAGE else None
        if advise is None:
            continue
        start = -(-tensor.data_ptr() // HUGE_PAGE) * HUGE_PAGE
        stop = (tensor.data_ptr() + size) // HUGE_PAGE * HUGE_PAGE
        if stop > start:
            advise(start, stop - start, MADV_HUGEPAGE)


@lru_cache(maxsize=1)
def _madvise() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
