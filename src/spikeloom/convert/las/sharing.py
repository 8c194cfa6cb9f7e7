"""Layers that read the same activation: its values are encoded once, for all of them.

An activation is the same as long as it is the same tensor and is not changed in place. torch
counts such changes, as autograd has to know of them; memory written behind its back, by ``x.data``
or NumPy, it does not see. In inference mode torch does not count, and in a compiled graph the count
is not known: there every layer encodes for itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["Latest", "Readers", "version_of"]

Layer = TypeVar("Layer", bound=nn.Module)


def version_of(x: Tensor) -> int | None:
    """How often a tensor was changed in place, or None where torch does not tell.

    Args:
        x: Any tensor.
    """
    return None if torch.compiler.is_compiling() or x.is_inference() else x._version


class Readers(Generic[Layer]):
    """Finds the layers that read the same activations in every batch of a calibration.

    Args:
        layers: Whose argument is watched, until :meth:`stop`.
    """

    def __init__(self, layers: list[Layer]) -> None:
        self._reads: dict[Layer, list[int]] = {}
        self._seen: dict[tuple[int, int], int] = {}
        self._alive: list[Tensor] = []
        self._count = 0
        self._hooks = [
            layer.register_forward_pre_hook(self._note, with_kwargs=True) for layer in layers
        ]

    def _note(self, layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        x: Tensor = (*args, *named.values())[0]
        # Kept until the next batch, so that no other tensor takes its identity.
        self._alive.append(x)
        self._count += 1
        version = version_of(x)
        read = self._count
        if version is not None:
            read = self._seen.setdefault((id(x), version), read)
        self._reads.setdefault(layer, []).append(read)  # type: ignore[arg-type]  # hooked layers only

    def next_batch(self) -> None:
        """Let go of the activations of the last batch."""
        self._alive.clear()
        self._seen.clear()

    def stop(self) -> None:
        """Watch no longer."""
        self.next_batch()
        for hook in self._hooks:
            hook.remove()

    def groups(self) -> Iterator[list[Layer]]:
        """Layers, two or more, that read the same, in the order in which they did."""
        same: dict[tuple[int, ...], list[Layer]] = {}
        for layer, reads in self._reads.items():
            same.setdefault(tuple(reads), []).append(layer)
        return (layers for layers in same.values() if len(layers) > 1)


class Latest:
    """The latest encoding of a site, kept until all readers of the activation have it."""

    # The activation, its version, its encoding, and how many readers are still to come.
    _kept: tuple[weakref.ref[Tensor], int, Tensor, int] | None = None

    def keep(self, x: Tensor, y: Tensor, readers: int) -> None:
        """Keep the encoding ``y`` of ``x`` for so many readers."""
        version = version_of(x) if readers else None
        self._kept = None if version is None else (weakref.ref(x), version, y, readers)

    def take(self, x: Tensor) -> Tensor | None:
        """The encoding of this activation, if it is the one that is kept."""
        kept = self._kept  # read once: another thread may change it
        if kept is None or kept[0]() is not x or kept[1] != version_of(x):
            return None
        source, version, y, readers = kept
        if x.requires_grad and torch.is_grad_enabled() and not y.requires_grad:
            return None  # encoded without a gradient, for a reader that had no use for it
        # The last reader lets go of it.
        self._kept = (source, version, y, readers - 1) if readers > 1 else None
        return y

    def __getstate__(self) -> dict[str, Any]:
        # A weak reference cannot be pickled.
        return {}
