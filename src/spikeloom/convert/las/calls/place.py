"""Where in the code of a forward a call stands."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from types import CodeType

import torch

__all__ = ["place"]

# Code that stands between a call and the forward that makes it.
_PASSED = (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent))
_MODULE_CALL = ("_call_impl", torch.nn.modules.module.__file__)


def place() -> str:
    """The positions in the user's code that led to the present call, the innermost first.

    A call within a loop has one place, two calls on one line have two. A place stays the same if
    other parts of the file change.
    """
    found = []
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if (code.co_name, code.co_filename) == _MODULE_CALL:
            break
        if not code.co_filename.startswith(_PASSED):
            found.append(_position(code, frame.f_lasti))
            if code.co_name == "forward":
                break  # what is around it may be entered in other ways
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return " ".join(found)


@lru_cache(maxsize=4096)
def _position(code: CodeType, instruction: int) -> str:
    line, _, begin, end = list(code.co_positions())[instruction // 2]
    if line is None or begin is None:  # compiled without positions
        return f"{code.co_qualname}+{instruction}"
    return f"{code.co_qualname}:{line - code.co_firstlineno}:{begin}-{end}"
