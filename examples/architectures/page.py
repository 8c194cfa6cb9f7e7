"""The table of architectures as a page of the documentation."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from architectures.trial import STATES, Row

__all__ = ["counts", "page"]

COMMAND = (
    "python examples/las_architectures.py --rows rows.jsonl --markdown docs/las_architectures.md"
)
CALLED = re.compile(r"\) calls ([^;]*?)(?:[;.]|$)")


def counts(rows: Sequence[Row]) -> str:
    """How many rows there are of each state.

    Args:
        rows: The table.
    """
    found = Counter(row.state for row in rows)
    return ", ".join(f"{found[state]} {state}" for state in STATES if found[state])


def page(rows: Sequence[Row]) -> str:
    """The page.

    Args:
        rows: The table.
    """
    rows = sorted(rows)
    lines = [
        "# Which architectures LAS converts",
        "",
        f"Written by `{COMMAND}` with transformers {transformers.__version__}: "
        f"{len(rows)} of its {len(CONFIG_MAPPING_NAMES)} model types were tried. Each is built "
        f"small, with random weights twice as large as at initialisation, converted with 8 steps "
        f"on two or three batches, and compared with the float model on another one. Rows "
        f"that were in the file were not measured again: some are older than others.",
        "",
        f"**{counts(rows)}.**",
        "",
        "- *converted*: the relative L2 error is at most 0.02 at 8 steps;",
        "- *coarse*: it is larger, and at most a quarter of that at 12 steps: the model, which is "
        "not trained, amplifies rounding;",
        "- *saturated*: it is larger, and the converted network warned that values lie beyond the "
        "ranges of its calibration;",
        "- *refused*: an error names the call that no rule computes by spikes;",
        "- *not built*: no small model, or no batch that it takes, was found; nothing is said of "
        "the type.",
        "",
        "| model type | model | result |",
        "|---|---|---|",
    ]
    lines += [
        f"| {row.kind} | {row.model} | {row.state}: {row.detail} |"
        for row in rows
        if row.state not in ("not built", "refused")
    ]
    lines += ["", "## Refused, by what is called", "", "| call | model types |", "|---|---|"]
    lines += [f"| {call} | {', '.join(kinds)} |" for call, kinds in _refusals(rows)]
    missing = ", ".join(row.kind for row in rows if row.state == "not built")
    return "\n".join([*lines, "", "## Not built", "", f"{missing}.", ""])


def _refusals(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """The reasons of refusals, the most frequent ones first."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.state == "refused":
            calls = sorted(set(CALLED.findall(row.detail)))
            found[", ".join(calls) or row.detail].append(row.kind)
    return sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
