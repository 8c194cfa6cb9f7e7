"""The results of run.sh as Markdown, whatever part of them there is.

python examples/benchmarks/gpu/tables.py OUT        # prints, and writes OUT/gpu.md
"""

import argparse
import json
from pathlib import Path
from typing import Any

from spikeloom.files import write_text

Row = dict[str, Any]
SIZE = ("what", "dtype", "T", "N")


def timing(rows: list[Row]) -> list[str]:
    """A table for each size: milliseconds, and how many copies of the input they are."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if "T" in row and "name" in row:
            groups.setdefault(tuple(row[key] for key in SIZE), []).append(row)
    lines = []
    for (what, dtype, steps, neurons), found in groups.items():
        copy = next((row["best"] for row in found if row["name"] == "copy" and "best" in row), None)
        cached = " (fits in the L2 cache)" if any(row.get("in_cache") for row in found) else ""
        lines += [f"LIF, {what}, {dtype}, T={steps}, N={neurons:,}{cached}", ""]
        lines += ["| | best ms | median ms | best / copy |", "|---|---|---|---|"]
        lines += [f"| {row['name']} | {_figures(row, copy)} |" for row in found]
        lines.append("")
    return lines


def _figures(row: Row, copy: float | None) -> str:
    if "problem" in row:
        return f"{row['problem']} | | "
    median = f"{row['median']:.4f}" if "median" in row else ""
    ratio = f"{row['best'] / copy:.2f}" if copy else ""
    return f"{row['best']:.4f} | {median} | {ratio}"


def listed(rows: list[Row]) -> list[str]:
    """Rows with the same columns as tables, others as lines."""
    lines: list[str] = []
    columns: tuple[str, ...] = ()
    for row in rows:
        if tuple(row) != columns:
            columns = tuple(row)
            lines += ["", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        lines.append(f"| {' | '.join(map(_shown, row.values()))} |")
    return [*lines[1:], ""]


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def page(folder: Path) -> str:
    """Everything that a folder of results holds."""
    parts = {
        "Against the eager step": ("correct.json", listed),
        "Times of layers": ("timing.json", timing),
        "SpikingJelly by its torch backend": ("timing-spikingjelly-torch.json", timing),
        "Networks": ("network.json", listed),
    }
    lines = ["# On a GPU", ""]
    for title, (name, render) in parts.items():
        path = folder / name
        if path.exists():
            rows = json.loads(path.read_text(encoding="utf-8"))
            about = [row for row in rows if row.get("what") in ("device", "framework")]
            lines += [f"## {title}", "", *listed(about)] if about else [f"## {title}", ""]
            lines += render([row for row in rows if row not in about])
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    text = page(options.folder)
    write_text(options.folder / "gpu.md", text)
    print(text)


if __name__ == "__main__":
    main()
