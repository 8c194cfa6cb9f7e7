"""Where the features of a norm are, along the way to the module that takes them.

A layout names each axis: ``n`` is time or batch, ``f`` the features, ``s`` a position. Flattened
features are ``F``, each repeated for its positions; ``t`` counts the tokens of all maps, position
by position.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn

from spikeloom.observe.dialects import name_of
from spikeloom.verify.fold.connections import Connections, Path
from spikeloom.verify.fold.plain import is_plain, is_transparent

__all__ = ["Layout", "along", "has_time", "is_padded", "is_pool", "layout_of", "spatial"]

Layout = tuple[str, ...]

SPATIAL: dict[int, tuple[type, ...]] = {
    1: (nn.BatchNorm1d, nn.Conv1d),
    2: (nn.BatchNorm2d, nn.Conv2d),
    3: (nn.BatchNorm3d, nn.Conv3d),
}


def spatial(layer: Any) -> int:
    """Spatial dimensions of a norm or a weight layer."""
    for number, kinds in SPATIAL.items():
        if isinstance(layer, kinds):
            return number
    return 0


def has_time(module: Any) -> bool:
    """Whether a host's module takes ``[T, N, ...]``."""
    return getattr(module, "step_mode", "s") == "m"


def layout_of(layer: Any, positions: int) -> Layout:
    """What a norm or a convolution takes, with so many axes of positions."""
    return (*("n" for _ in range(1 + has_time(layer))), "f", *("s" for _ in range(positions)))


def is_pool(module: Any) -> bool:
    """Whether a module pools or flattens, or does nothing."""
    return is_transparent(module) or (
        isinstance(module, (nn.AvgPool2d, nn.Flatten)) and is_plain(module)
    )


def is_padded(pool: nn.AvgPool2d) -> bool:
    """Whether zeros surround the map."""
    return pool.padding not in (0, (0,), (0, 0))


def averages(pool: nn.AvgPool2d) -> bool:
    """Whether each value is the mean of those there are, so that a shift passes."""
    return pool.divisor_override is None and not (is_padded(pool) and pool.count_include_pad)


def along(layout: Layout, way: Path, connections: Connections) -> Layout | None:
    """The layout at the end of a way; None if the features are no longer told apart."""
    found: Layout | None = layout
    for node in way:
        if found is not None:
            name = connections.name(node)
            module = None if name is None else connections.module(name)
            found = _called(found, node) if module is None else _through(found, module)
    return found


def _through(layout: Layout, module: nn.Module) -> Layout | None:
    if isinstance(module, nn.AvgPool2d):
        return layout if layout[-2:] == ("s", "s") and averages(module) else None
    if isinstance(module, nn.Flatten):
        shift = has_time(module)
        start, end = module.start_dim, module.end_dim
        return _flattened(layout, start + shift * (start >= 0), end + shift * (end >= 0))
    return layout


def _called(layout: Layout, node: fx.Node) -> Layout | None:
    """After a method, or a function that is one."""
    method = name_of(node.target)
    if method == "contiguous":
        return layout
    arguments = list(node.args[1:])
    if method == "flatten":
        start = node.kwargs.get("start_dim", arguments[0] if arguments else 0)
        end = node.kwargs.get("end_dim", arguments[1] if len(arguments) > 1 else -1)
        return _flattened(layout, start, end)
    if method == "unflatten":
        axis = node.kwargs.get("dim", arguments[0] if arguments else None)
        sizes = _count(node.kwargs.get("sizes", arguments[-1] if arguments else None))
        return _unflattened(layout, sizes) if axis == 0 and sizes else None
    if method == "movedim" and len(layout) == 5 and arguments == [-1, 2]:
        return (*layout[:2], layout[4], *layout[2:4])
    return None


def _flattened(layout: Layout, start: Any, end: Any) -> Layout | None:
    if not (isinstance(start, int) and isinstance(end, int)):
        return None
    start, end = start % len(layout), end % len(layout)
    joined = layout[start : end + 1]
    if len(joined) <= 1 or set(joined) == {"n"}:
        return (*layout[:start], *joined[:1], *layout[end + 1 :])
    # Features come first, so each is followed by its positions.
    if end == len(layout) - 1 and joined[0] == "f" and set(joined[1:]) == {"s"}:
        return (*layout[:start], "F")
    return None


def _unflattened(layout: Layout, sizes: int) -> Layout | None:
    if layout[0] == "n":
        return (*("n" for _ in range(sizes)), *layout[1:])
    if layout[0] == "t" and sizes > 2:
        return (*("n" for _ in range(sizes - 2)), "s", "s", *layout[1:])
    return None


def _count(sizes: Any) -> int | None:
    """How many sizes there are: a tuple of them, or the first few of a shape."""
    if isinstance(sizes, (tuple, list)):
        return len(sizes)
    if isinstance(sizes, fx.Node) and sizes.target is operator.getitem:
        part = sizes.args[1]
        if isinstance(part, slice) and part.start in (None, 0) and part.step in (None, 1):
            return part.stop if isinstance(part.stop, int) and part.stop > 0 else None
    return None
