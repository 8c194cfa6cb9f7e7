"""What each part of LAS is worth: a small decoder, converted without it.

    python examples/benchmarks/las_ablations.py

The decoder is the trained one of the tests: 2 layers that know a text, character by character.
Each row leaves one part out: the outlier-aware ranges (every site has one range up to its largest
value, and the room of LAS beyond), the generated tables (SiLU, exponential and square root have the
resolution and ranges of the tables that the authors published, rebuilt from their description), or
the spikes of attention (it computes in float). The loss is that of the next character, and the
agreement is the share of characters that the converted decoder expects like the float one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from language_model.published import with_published_tables

from spikeloom.convert import LAS
from spikeloom.convert.las.sites import Site
from tests.convert.las.trained import passages, trained

__all__ = ["ABLATIONS", "main"]

STEPS = (4, 6, 8, 16)
ROWS = 64


def whole(model: nn.Module, steps: int, calibration: list[Any]) -> nn.Module:
    """LAS as it is."""
    return LAS(steps=steps, progress=False).apply(model, calibration)


def one_range(model: nn.Module, steps: int, calibration: list[Any]) -> nn.Module:
    """Every site has one range, up to the largest value of its calibration."""
    network = LAS(steps=steps, progress=False).apply(model, calibration)
    for site in network.modules():
        if isinstance(site, Site):
            *_, largest = (value for name, value in site.named_buffers() if "between" in name)
            site.normal.fill_(float(largest))  # type: ignore[operator,union-attr]  # a buffer
    return network


def published_tables(model: nn.Module, steps: int, calibration: list[Any]) -> nn.Module:
    """SiLU, exponential and square root by the published tables, whatever K is."""
    network = LAS(steps=steps, progress=False).apply(model, calibration)
    return with_published_tables(network)


def attention_in_float(model: nn.Module, steps: int, calibration: list[Any]) -> nn.Module:
    """Queries, keys, values and softmax stay as they are."""
    names = [name for name, _ in model.named_modules() if name.endswith("self_attn")]
    return LAS(steps=steps, exclude=names, progress=False).apply(model, calibration)


ABLATIONS: dict[str, Callable[[nn.Module, int, list[Any]], nn.Module]] = {
    "LAS": whole,
    "one range for OAT": one_range,
    "published tables": published_tables,
    "attention in float": attention_in_float,
}


def main() -> None:
    """Print a row for each number of steps and each part that is left out."""
    torch.set_num_threads(1)
    model = trained("llama")
    with torch.no_grad():
        compare(model)


def compare(model: nn.Module) -> None:
    """Print the table for a trained decoder.

    Args:
        model: The decoder.
    """
    calibration = [{"input_ids": passages(seed)} for seed in range(4)]
    ids = passages(99, rows=ROWS)
    expected = model(input_ids=ids, labels=ids)
    print(f"float: loss {float(expected.loss):.4f}\n")
    print("| K | network | loss | beside float | agreement | logits, relative L2 |")
    print("|---|---|---|---|---|---|")
    for steps in STEPS:
        for name, convert in ABLATIONS.items():
            found = convert(model, steps, calibration)(input_ids=ids, labels=ids)
            agree = (found.logits.argmax(-1) == expected.logits.argmax(-1)).float().mean()
            error = (found.logits - expected.logits).norm() / expected.logits.norm()
            print(
                f"| {steps} | {name} | {float(found.loss):.4f} | "
                f"{float(found.loss / expected.loss - 1):+.2%} | {float(agree):.2%} | "
                f"{float(error):.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
