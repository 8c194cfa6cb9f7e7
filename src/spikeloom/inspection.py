"""inspect: what a file or folder holds that spikeloom reads or writes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from spikeloom.compress.statistics import FORMAT, Statistics
from spikeloom.report import Report
from spikeloom.weights import open_tensors

__all__ = ["inspect"]

HDF5 = b"\x89HDF"
KNOWN = (
    "a NIR file, a folder that convert or compress wrote, a .safetensors file of weights or "
    "statistics, and a report as .json"
)


def inspect(path: str | os.PathLike[str]) -> Report:
    """What is in a file or folder, without running or unpickling anything.

    Args:
        path: A NIR file; a converted or compressed folder; a safetensors file with weights, or with
            the statistics of a calibration; or a report that was saved as JSON.

    Returns:
        A report whose first column names the nodes, modules or tensors, with dots between a part
        and what it is in.

    Raises:
        FileNotFoundError: If there is nothing at the path.
        ValueError: If it holds none of these.

    Example:
        >>> import pathlib, tempfile, torch
        >>> from safetensors.torch import save_file
        >>> from spikeloom.inspection import inspect
        >>> path = pathlib.Path(tempfile.mkdtemp(), "weights.safetensors")
        >>> save_file({"fc.weight": torch.eye(2)}, path)
        >>> print(inspect(path))
        Tensors of weights.safetensors
        tensor     dtype    shape   zeros
        ---------  -------  ------  -----
        fc.weight  float32  [2, 2]    0.5
        1 tensors, 4 values
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path: there is nothing at {path}")
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix == ".json":
        return _report(path)
    with path.open("rb") as file:
        if file.read(len(HDF5)) == HDF5:
            from spikeloom.export import describe, read

            return describe(read(path))
    raise ValueError(f"path: cannot tell what {path} is; there are {KNOWN}")


def _folder(path: Path) -> Report:
    """A converted folder by its configuration, another one by its weights or its report."""
    config = path / "config.json"
    settings = json.loads(config.read_text("utf-8")) if config.is_file() else {}
    for key, shown in CONVERTED.items():
        if key in settings:
            report = shown(settings[key])
            report.notes.append(
                f"{', '.join(settings.get('architectures') or ['a model'])}, {_size(path)}"
            )
            return report
    for name, read in (("model.safetensors", _safetensors), ("report.json", _report)):
        if (path / name).is_file():
            return read(path / name)
    raise ValueError(f"path: cannot tell what the folder {path} is; there are {KNOWN}")


def _size(folder: Path) -> str:
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return f"{size / 1e6:.4g} MB of weights"


def _las(plan: dict[str, Any]) -> Report:
    """The sites and tables of a network that LAS converted."""
    report = Report("Converted by LAS", ("module", "kind", "steps", "ranges", "rounding"))
    for name, site in plan["sites"].items():
        report.add(name, "site", site["steps"], len(site["shapes"]), site["rounding"])
    for name, (steps, *_) in plan["tables"].items():
        report.add(name, "table", steps, None, None)
    for name, first in plan["shared"].items():
        report.add(name, f"reads the spikes of {first}", None, None, None)
    if plan["exclude"]:
        report.notes.append(f"left in float: {', '.join(plan['exclude'])}")
    return report


def _spikelm(settings: dict[str, Any]) -> Report:
    return Report("Converted by SpikeLM", ("argument", "value"), [*settings.items()])


# What a configuration says of a conversion -> how it is shown.
CONVERTED: dict[str, Callable[[Any], Report]] = {"spikeloom_las": _las, "spikelm": _spikelm}


def _safetensors(path: Path) -> Report:
    with open_tensors(path, "path") as file:
        if (file.metadata() or {}).get("format") == FORMAT:
            return Statistics.load(path).report()
        return _tensors(path, ((name, file.get_tensor(name)) for name in sorted(file.keys())))


def _tensors(path: Path, tensors: Iterator[tuple[str, Any]]) -> Report:
    """A row for each tensor; the share of its values that are zero shows what was pruned."""
    report = Report(f"Tensors of {path.name}", ("tensor", "dtype", "shape", "zeros"))
    values = 0
    for name, tensor in tensors:
        size = max(1, tensor.numel())
        zeros = 1 - int(tensor.count_nonzero()) / size
        dtype = str(tensor.dtype).removeprefix("torch.")
        report.add(name, dtype, str(list(tensor.shape)), zeros)
        values += tensor.numel()
    report.notes.append(f"{len(report.rows)} tensors, {values:,} values")
    return report


def _report(path: Path) -> Report:
    """A report as it was saved."""
    try:
        saved = json.loads(path.read_text("utf-8"))
        title, rows, notes = saved["title"], saved["rows"], saved["notes"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"path: {path} holds no report: {error!r}") from None
    columns = tuple(rows[0]) if rows else ("empty",)
    return Report(title, columns, [tuple(row.values()) for row in rows], notes)
