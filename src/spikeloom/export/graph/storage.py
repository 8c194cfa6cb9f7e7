"""NIR files: written whole, read with clear errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import nir

from spikeloom.export.graph.execution_plan import MAX_DEPTH, MAX_NODES
from spikeloom.files import whole_file

__all__ = ["read", "write"]

MAX_BYTES = 8 * 2**30
PRIMITIVES = frozenset(
    name
    for name, kind in vars(nir).items()
    if isinstance(kind, type) and issubclass(kind, nir.NIRNode)
)
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def read(
    path: str | os.PathLike[str], *, max_nodes: int = MAX_NODES, type_check: bool = True
) -> nir.NIRGraph:
    """Read a NIR file.

    NIR files hold no checksums, and the HDF5 library may crash or stall, which no Python code can
    catch, on one whose bytes were changed on the way or by intent. Read what you do not trust in a
    process of its own.

    Args:
        path: The file.
        max_nodes: Files with more nodes are refused before they are loaded.
        type_check: Whether to compare the shapes that the nodes state. Some writers state others
            than they mean, such as one with a batch axis; the graph may still run.

    Returns:
        The graph, its shapes checked unless ``type_check`` is False.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If it is no path.
        ValueError: If it is no NIR file, is damaged, too large, or its nodes do not fit together.

    Example:
        >>> import nir, numpy, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "net.nir")
        >>> fc = nir.Linear(weight=numpy.eye(2, dtype="float32"))
        >>> write(path, nir.NIRGraph.from_list(fc))
        >>> sorted(read(path).nodes)
        ['input', 'linear', 'output']
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path: must be a path, got {type(path).__name__}")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {path}")
    with path.open("rb") as file:
        if file.read(len(HDF5_SIGNATURE)) != HDF5_SIGNATURE:
            raise ValueError(f"path: {path} is no NIR file, it does not begin like HDF5")
    # h5py and nir raise whatever their inner calls raise; here it is all the file's fault.
    try:
        with h5py.File(path, "r") as file:
            _check_contents(file, max_nodes)
    except _Unfit as error:
        raise ValueError(f"path: {path}: {error}") from error
    except Exception as error:
        raise ValueError(f"path: {path} is damaged: {error}") from error
    try:
        return nir.read(path, type_check=type_check)
    except Exception as error:
        reason = str(error) or type(error).__name__
        if "type mismatch" in reason:
            reason += "; type_check=False reads it, if the shapes are only stated wrongly"
        raise ValueError(f"path: {path} holds no valid NIR graph: {reason}") from error


class _Unfit(ValueError):
    """A file that can be opened but is not what was asked for."""


def write(path: str | os.PathLike[str], graph: nir.NIRGraph) -> None:
    """Write a NIR file, whole or not at all.

    Args:
        path: The file; an older one is replaced when the new one is complete.
        graph: What to write.

    Raises:
        FileNotFoundError: If the folder does not exist.
    """
    with whole_file(path) as temporary:
        nir.write(temporary, graph)


def _check_contents(file: h5py.File, max_nodes: int) -> None:
    """Look at names, types and sizes only, before anything is loaded."""
    if "node" not in file or "type" not in file["node"]:
        raise _Unfit("it is HDF5, but no NIR file: it has no node with a type")
    root = _text(file["node/type"][()])
    if root in PRIMITIVES and root != "NIRGraph":
        raise _Unfit(f"it holds a single {root}, not a graph")
    waiting, nodes, size = [(file["node"], 0)], 0, 0
    while waiting:
        group, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise _Unfit(f"its graphs are nested more than {MAX_DEPTH} deep")
        kind = _text(group["type"][()]) if "type" in group else "nothing"
        if kind not in PRIMITIVES:
            raise _Unfit(f"node {group.name} is a {kind!r}, which is no NIR primitive")
        nodes += 1
        size += _bytes(group)
        inner = group.get("nodes")
        count = len(inner) if isinstance(inner, h5py.Group) else 0
        if nodes + count > max_nodes:
            raise _Unfit(f"it has more than {max_nodes} nodes; raise max_nodes if that is meant")
        edges = group.get("edges")
        if isinstance(edges, h5py.Dataset) and edges.size > 200 * max_nodes:
            raise _Unfit(f"it has more than {100 * max_nodes} edges")
        if size > MAX_BYTES:
            raise _Unfit(f"its arrays need more than {MAX_BYTES / 2**30:.0f} GiB")
        if count:
            waiting.extend((node, depth + 1) for node in inner.values())


def _bytes(group: h5py.Group) -> int:
    """The size of a node's own arrays, its metadata included."""
    total = 0
    for name, item in group.items():
        if isinstance(item, h5py.Dataset):
            total += item.nbytes
        elif name != "nodes":
            total += _bytes(item)
    return total


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
