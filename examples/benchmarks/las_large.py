"""What it takes to convert a large decoder from its folder: time and peak memory.

    python examples/benchmarks/las_large.py                     # 1.2 billion parameters, bfloat16
    python examples/benchmarks/las_large.py --layers 4 8 16     # the same with fewer layers
    python examples/benchmarks/las_large.py --in-memory         # LAS(low_memory=True) instead

The decoder has the shape of LLaMA 3.2 1B and random weights, which are written to a temporary
folder first. Each row is a process of its own. Memory is what the process holds at most, with the
parts of files that it has mapped; beside it stands what it holds once everything is imported.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from spikeloom import convert
from spikeloom.report import Report

VOCABULARY = 128_256
COLUMNS = (
    "layers",
    "parameters, 10^9",
    "tokens",
    "minutes",
    "CPU minutes",
    "GB at most",
    "GB before",
)


def write(folder: Path, layers: int) -> None:
    """A decoder with random weights, in files of at most a gigabyte."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=2048, num_hidden_layers=layers, num_attention_heads=32, num_key_value_heads=8,
        intermediate_size=8192, vocab_size=VOCABULARY, tie_word_embeddings=True,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="1GB")


def held() -> float:
    """The most memory that this process has held so far, in GB."""
    return getrusage(RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(folder: Path, batches: int, length: int, in_memory: bool) -> None:
    """Convert, and print what it took as a line of numbers."""
    torch.manual_seed(0)
    calibration = [{"input_ids": torch.randint(VOCABULARY, (1, length))} for _ in range(batches)]
    recipe = convert.LAS(steps=8, low_memory=True)
    before, begin, computed = held(), time.perf_counter(), time.process_time()
    if in_memory:
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        recipe.apply(model, calibration)
    else:
        convert.las_folder(folder, folder / "spiking", calibration, recipe)
    took = time.perf_counter() - begin, time.process_time() - computed
    print(took[0] / 60, took[1] / 60, held(), before)


def own_process(*arguments: object) -> str:
    """What this file prints with other arguments."""
    call = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Print a row for each number of layers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="*", default=[16])
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--length", type=int, default=128, help="tokens of a batch")
    parser.add_argument("--in-memory", action="store_true")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.write:
        write(wanted.write, *wanted.layers)
        return
    if wanted.measure:
        measure(wanted.measure, wanted.batches, wanted.length, wanted.in_memory)
        return
    report = Report("Conversion of a decoder in bfloat16", COLUMNS)
    for layers in wanted.layers:
        with tempfile.TemporaryDirectory() as folder:
            own_process("--layers", layers, "--write", folder)
            size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")) / 2e9
            given = ["--batches", wanted.batches, "--length", wanted.length]
            given += ["--in-memory"] if wanted.in_memory else []
            found = own_process(*given, "--measure", folder).split()
        tokens = wanted.batches * wanted.length
        report.add(layers, size, tokens, *map(float, found))
        print(report, flush=True)


if __name__ == "__main__":
    main()
