"""New weights and buffers of all layers, put in place in one step.

An interrupt or an error in the midst of it leaves no layer changed, or all.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from spikeloom.compress.buffers import BUFFERS, keep
from spikeloom.rows import WeightLayer

__all__ = ["Change", "make_changes"]


@dataclass(frozen=True, eq=False)
class Change:
    """What becomes of one layer.

    Attributes:
        layer: The layer.
        weight: Its new weight.
        buffers: What it keeps beside it; None takes a buffer away.
        compressed_from: Fingerprints of the weight that was calibrated and of the new one.
    """

    layer: WeightLayer
    weight: Tensor
    buffers: Mapping[str, Tensor | None]
    compressed_from: tuple[str, str]

    def make(self) -> None:
        """Give the layer its new weight and buffers."""
        self.layer.weight.detach().copy_(self.weight)
        keep(self.layer, {name: new for name, new in self.buffers.items() if new is not None})
        for name, new in self.buffers.items():
            if new is None:
                delattr(self.layer, name)
        vars(self.layer)["compressed_from"] = self.compressed_from


def make_changes(changes: Iterable[Change]) -> None:
    """Make all changes, or none."""
    with _interrupts_waiting(), ExitStack() as undo:
        for change in changes:
            undo.callback(_way_back(change.layer))
            change.make()
        undo.pop_all()


def _way_back(layer: nn.Module) -> Callable[[], None]:
    """A function that makes a layer what it is now."""
    target: Any = layer
    weight = target.weight.detach().clone()
    buffers = {name: layer._buffers[name] for name in BUFFERS if name in layer._buffers}
    marks = vars(layer).get("compressed_from")
    hooks = [(all_, set(all_)) for all_ in (layer._forward_pre_hooks, layer._state_dict_pre_hooks)]

    def restore() -> None:
        target.weight.detach().copy_(weight)
        for name in BUFFERS:
            layer._buffers.pop(name, None)
        layer._buffers.update(buffers)
        vars(layer)["compressed_from"] = marks
        for all_, before in hooks:
            for key in set(all_) - before:
                del all_[key]

    return restore


@contextmanager
def _interrupts_waiting() -> Iterator[None]:
    """Let SIGINT (Ctrl-C) wait until the block has ended; only the main thread receives it."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield
        return
    waiting: list[int] = []
    try:
        signal.signal(signal.SIGINT, lambda number, frame: waiting.append(number))
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if waiting:
            signal.raise_signal(signal.SIGINT)
