"""Activation checkpointing round a module that keeps its state.

``torch.utils.checkpoint`` runs a region of a network again in the backward pass. By then a module
holds the state that its last call left, and would compute from that one. So each module notes the
state from which its first call in a region started, starts there again when the region runs again,
and gets back what it held when the backward pass is over.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch.autograd import Variable
from torch.utils import checkpoint

__all__ = ["Restarting"]

REMEDY = (
    "reset it inside the checkpointed function, pass its state in and out, or use "
    "torch.utils.checkpoint.checkpoint(..., use_reentrant=False), not nested in another"
)


class Restarting:
    """Mixin of a host's base module that keeps its state from one call to the next."""

    def _snapshot(self) -> Any:
        """What the module keeps now, to be put back later."""
        raise NotImplementedError

    def _put_back(self, snapshot: Any) -> None:
        """Keep what was kept then."""
        raise NotImplementedError

    def _is_at_rest(self) -> bool:
        """Whether the module keeps no state."""
        raise NotImplementedError

    def _restart(self, goes_on: bool = True) -> None:
        """Before a call or a reset: note what is kept, or in a second run go back to it.

        Args:
            goes_on: Whether it goes on from what is kept; it leaves something in any case.

        Raises:
            RuntimeError: If a region runs again and the state from which it started is unknown,
                or has a gradient that could not arrive.
        """
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return
        region, in_backward = _region(), torch._C._current_graph_task_id() != -1
        if region is not None and region.again:
            _start_again(self, region)
        elif in_backward and torch.is_grad_enabled() and goes_on and not self._is_at_rest():
            raise _refusal(self, "from a state that is unknown")
        elif region is not None:
            starts = _LOGS.setdefault(region.key, _Log()).starts
            if id(self) not in starts:
                kept = self._snapshot() if goes_on else None
                starts[id(self)] = _Start(kept, goes_on, self._is_at_rest())


class _Region(NamedTuple):
    """A region that runs now.

    Attributes:
        key: One object for both runs.
        again: Whether it is the second.
        reentrant: Whether it began without gradients.
    """

    key: Any
    again: bool
    reentrant: bool


class _Start(NamedTuple):
    """How a module's first call in a region starts: what it kept, and whether that counts."""

    kept: Any
    goes_on: bool
    at_rest: bool


@dataclass
class _Log:
    """How modules, by id, start in a region; in which backward passes they started again."""

    starts: dict[int, _Start] = field(default_factory=dict)
    restarted: set[tuple[int, int]] = field(default_factory=set)


_LOGS: WeakKeyDictionary[Any, _Log] = WeakKeyDictionary()
# What modules held before a backward pass, by its id.
_HELD: dict[int, dict[int, tuple[Restarting, Any]]] = {}


def _start_again(module: Restarting, region: _Region) -> None:
    task, log = torch._C._current_graph_task_id(), _LOGS.get(region.key)
    if log is None or id(module) not in log.starts or task == -1:
        raise _refusal(module, "from a state that is unknown")
    if (task, id(module)) in log.restarted:
        return  # a later call of the same region goes on from the one before
    log.restarted.add((task, id(module)))
    start, now = log.starts[id(module)], module._snapshot()
    if start.goes_on and _same(now, start.kept):
        return  # the region itself put it there
    if region.reentrant and start.goes_on and not start.at_rest:
        raise _refusal(module, "from a state through which no gradient can pass")
    if task not in _HELD:
        _HELD[task] = {}
        Variable._execution_engine.queue_callback(lambda: _put_all_back(task))
    _HELD[task].setdefault(id(module), (module, now))
    if start.goes_on:
        module._put_back(start.kept)


def _put_all_back(task: int) -> None:
    for module, held in _HELD.pop(task).values():
        module._put_back(held)


def _same(first: Any, second: Any) -> bool:
    """Whether two snapshots hold the same numbers and the same memory."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first.data_ptr() == second.data_ptr() and first.shape == second.shape
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    return type(first) is type(second) and first == second


def _refusal(module: Any, start: str) -> RuntimeError:
    return RuntimeError(
        f"{type(module).__name__}: activation checkpointing runs this neuron again {start}, and "
        f"its gradient would be wrong; {REMEDY}"
    )


# --- Which region runs -------------------------------------------------------------------------


def _code(function: Any) -> CodeType:
    code: CodeType = inspect.unwrap(function).__code__
    return code


_REENTRANT = {
    _code(checkpoint.CheckpointFunction.forward): False,
    _code(checkpoint.CheckpointFunction.backward): True,
}


# A torch without this has other means, and unknown second runs are refused.
_top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)


def _region() -> _Region | None:
    hooks = _top_hooks(True)
    if hooks is not None:
        return _region_of_hook(inspect.unwrap(hooks[0]))
    in_backward = torch._C._current_graph_task_id() != -1
    if torch.is_grad_enabled() != in_backward or torch.is_inference_mode_enabled():
        return None
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code in _REENTRANT:
            return _Region(frame.f_locals["ctx"], _REENTRANT[frame.f_code], reentrant=True)
        frame = frame.f_back  # type: ignore[assignment]  # None at the end
    return None


def _region_of_hook(pack: Any) -> _Region | None:
    """The region whose hook keeps what is saved for the backward pass; None for other hooks."""
    if getattr(pack, "__module__", "") != checkpoint.__name__:
        return None
    bound = inspect.getclosurevars(pack).nonlocals
    if "frame" in bound:
        return _Region(bound["frame"], again=False, reentrant=False)
    if "target_frame_ref" in bound:
        return _Region(bound["target_frame_ref"](), again=True, reentrant=False)
    return None
