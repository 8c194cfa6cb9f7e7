"""Where in the code of a forward a call stands."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from types import CodeType

import torch
import torch.utils.checkpoint
from torch import nn

__all__ = ["is_recomputed", "place"]

# Code that stands between a call and the forward that makes it.
_PASSED = (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent))
# The parts of a composed function have places of their own.
_COMPOSED = str(Path(__file__).with_name("composed.py"))
_METHOD_CALL = ("_from_outside", str(Path(__file__).with_name("methods.py")))
# torch's own layers, which may be reached past their call.
_LAYERS = str(Path(torch.nn.modules.__file__).parent)
_MODULE_CALL = ("_call_impl", torch.nn.modules.module.__file__)


def place(module: nn.Module) -> tuple[nn.Module, str]:
    """The module whose code makes the present call, and where in the code it stands.

    The place is the positions in that module's code, and in a composed function, that led to the
    call, the innermost first. A call within a loop has one place, two calls on one line have two. A
    place stays the same if other parts of the file change.

    Args:
        module: The one that runs; the code may be that of another one, reached by its method.
    """
    found: list[str] = []
    owner = None
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if (code.co_name, code.co_filename) in (_MODULE_CALL, _METHOD_CALL):
            break
        own = code.co_filename.startswith(_PASSED) and code.co_filename != _COMPOSED
        if not own or code.co_filename.startswith(_LAYERS):
            me = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
            if isinstance(me, nn.Module):
                if owner is not None and me is not owner:
                    break  # the caller of that module's code
                owner = me
            if not own:
                found.append(_position(code, frame.f_lasti))
            if owner is not None and me is owner and code.co_name == "forward":
                break  # what is around it may be entered in other ways
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return module if owner is None else owner, " ".join(found)


def is_recomputed() -> bool:
    """Whether ``torch.utils.checkpoint`` repeats the present call in the backward pass.

    It repeats a function, not the forward of the module whose code calls it.
    """
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if (code.co_name, code.co_filename) == _MODULE_CALL:
            return False
        if code.co_filename == torch.utils.checkpoint.__file__:
            given = frame.f_locals.get("args", ())
            if torch.is_grad_enabled() or any(
                getattr(arg, "requires_grad", False) for arg in given
            ):
                return True
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return False


@lru_cache(maxsize=4096)
def _position(code: CodeType, instruction: int) -> str:
    line, _, begin, end = list(code.co_positions())[instruction // 2]
    if line is None or begin is None:  # compiled without positions
        return f"{code.co_qualname}+{instruction}"
    return f"{code.co_qualname}:{line - code.co_firstlineno}:{begin}-{end}"
