"""Pruning and quantisation of one layer: how long they take, and what they cost.

    python examples/benchmarks/osbc.py layer                                  # 256 x 1024
    python examples/benchmarks/osbc.py layer --outputs 1024 --inputs 4096 --rows 0 --exact-rows 4
    python examples/benchmarks/osbc.py quantize --outputs 1024 --inputs 4096

Each effort is measured beside SparseGPT (arXiv 2301.00774), quantisation beside GPTQ (arXiv
2210.17323), on the same Hessian and in float64 as written. All rows of a layer cost the same where
they are taken apart one by one, so of the exact effort and of the plain loop some rows may be
timed; the objective is that of these rows then. Times are seconds of computing of one process,
which other programs disturb little; candidates take turns, and the best turn counts.

Each run adds its rows to results/osbc.json, and writes them all into results/osbc.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.cpu import processor

from spikeloom import compress, neurons
from spikeloom.compress.blocks import damped, damped_inverse
from spikeloom.files import write_text

COLUMNS = 128
SPARSITIES = (0.5, 0.9)


def correlated_spikes(steps: int, samples: int, inputs: int, seed: int = 0) -> Tensor:
    """Synthetic spikes [steps, samples, inputs], about 5 %, driven by 64 slow hidden causes."""
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(steps, samples, 64, generator=generator)
    for t in range(1, steps):
        causes[t] = 0.8 * causes[t - 1] + 0.6 * causes[t]
    mixing = torch.randn(64, inputs, generator=generator) / 8
    noise = torch.randn(steps, samples, inputs, generator=generator)
    return (causes @ mixing + noise > 2.3).float()


# --- The peers ---


def upper_factor(H: Tensor) -> Tensor:
    """The rows of successive inverses: the upper Cholesky factor of the damped inverse."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(H)))
    return torch.linalg.cholesky(inverse, upper=True)


def sparsegpt(W: Tensor, H: Tensor, sparsity: float) -> Tensor:
    """Columns from left to right; each block of 128 chooses what it gives up."""
    U, W = upper_factor(H), W.clone()
    for start in range(0, W.shape[1], COLUMNS):
        part = slice(start, start + COLUMNS)
        block, own = W[:, part].clone(), U[part, part]
        costs = (block / own.diagonal()).square()
        leave = costs <= costs.flatten().kthvalue(max(1, int(sparsity * costs.numel()))).values
        errors = torch.zeros_like(block)
        for j in range(block.shape[1]):
            errors[:, j] = block[:, j].masked_fill(~leave[:, j], 0.0) / own[j, j]
            block[:, j:].addr_(errors[:, j], own[j, j:], alpha=-1)
        W[:, part] = block.masked_fill(leave, 0.0)
        W[:, start + COLUMNS :].addmm_(errors, U[part, start + COLUMNS :], alpha=-1)
    return W


def gptq(W: Tensor, H: Tensor, bits: int) -> Tensor:
    """Columns by falling diagonal of H, rounded in blocks of 128."""
    scale, last = 2 * W.abs().amax(1) / (2**bits - 1), 2 ** (bits - 1)
    order = H.diagonal().argsort(descending=True)
    U, W = upper_factor(H[order][:, order]), W[:, order].clone()
    for start in range(0, W.shape[1], COLUMNS):
        part = slice(start, start + COLUMNS)
        block, own = W[:, part].clone(), U[part, part]
        errors = torch.zeros_like(block)
        for j in range(block.shape[1]):
            rounded = scale * (block[:, j] / scale).round().clamp(-last, last - 1)
            errors[:, j] = (block[:, j] - rounded) / own[j, j]
            block[:, j:].addr_(errors[:, j], own[j, j:], alpha=-1)
            block[:, j] = rounded
        W[:, part] = block
        W[:, start + COLUMNS :].addmm_(errors, U[part, start + COLUMNS :], alpha=-1)
    return W[:, order.argsort()]


def plain_loop(W: Tensor, H: Tensor, count: int) -> Tensor:
    """Optimal Brain Surgeon as usually written, but in place: each row loses ``count``."""
    inverse, W = damped_inverse(H), W.clone()
    for w in W:
        R = inverse.clone()
        left = torch.ones_like(w, dtype=torch.bool)
        for _ in range(count):
            p = int(torch.where(left, w * w / R.diagonal(), torch.inf).argmin())
            left[p] = False
            column = R[:, p] / R[p, p]
            w -= column * w[p]
            R.addr_(column, R[p].clone(), alpha=-1)
            # What is gone must not be divided by.
            R[p, p] = 1.0
        w.masked_fill_(~left, 0.0)
    return W


# --- Measuring ---


def layer_case(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    spikes = correlated_spikes(50, 100, args.inputs)
    H = compress.layer_hessian(spikes, nn.Linear(args.inputs, 1), neurons.Trace(0.5))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(args.outputs, args.inputs, dtype=torch.float64, generator=generator), H


def share(W: Tensor, found: Tensor, H: Tensor) -> float:
    """The objective as a share of what removing the whole layer would cost."""
    change = found - W
    return float(((change @ H) * change).sum() / ((W @ H) * W).sum())


def in_turns(candidates: dict[str, Callable[[], Tensor]], turns: int) -> dict[str, Any]:
    """Seconds of computing, the best of some turns, and what came of it."""
    found: dict[str, Any] = {}
    for _ in range(turns):
        for name, run in candidates.items():
            start = time.process_time()
            result = run()
            seconds = time.process_time() - start
            best = min(seconds, found.get(name, (seconds,))[0])
            found[name] = (best, result)
    return found


def layer(args: argparse.Namespace) -> dict[str, Any]:
    W, H = layer_case(args)
    return {
        f"{sparsity:.0%} {name}": row
        for sparsity in SPARSITIES
        for name, row in efforts(args, W, H, sparsity).items()
    }


def efforts(args: argparse.Namespace, W: Tensor, H: Tensor, sparsity: float) -> dict[str, Any]:
    """A row for each effort and each peer at one sparsity."""

    def pruned(W: Tensor, effort: str) -> Tensor:
        return compress.prune_weight(W, H, int(sparsity * W.numel()), effort=effort)[0]

    some, few = W[: args.exact_rows or args.outputs], W[: args.rows]
    once = {"exact": lambda: pruned(some, "exact")}
    if args.rows:
        once["plain loop"] = lambda: plain_loop(few, H, int(sparsity * args.inputs))
    found = in_turns(once, 1)
    found |= in_turns(
        {
            "balanced": lambda: pruned(W, "balanced"),
            "fast": lambda: pruned(W, "fast"),
            "SparseGPT": lambda: sparsegpt(W, H, sparsity),
        },
        args.turns,
    )
    rows: dict[str, Any] = {
        name: {
            "seconds": seconds * args.outputs / len(result),
            "rows timed": len(result),
            "objective": share(W[: len(result)], result, H),
        }
        for name, (seconds, result) in found.items()
    }
    # Rows share what they give up: compare on the same ones.
    exact = rows["exact"]["objective"]
    beside = {"balanced": pruned(some, "balanced"), "fast": pruned(some, "fast")}
    beside["SparseGPT"] = sparsegpt(some, H, sparsity)
    for name, result in beside.items():
        rows[name]["beside exact"] = share(some, result, H) / exact - 1
    return rows


def quantize(args: argparse.Namespace) -> dict[str, Any]:
    W, H = layer_case(args)
    found = in_turns(
        {
            "quantize_weight": lambda: compress.quantize_weight(W, H, args.bits)[0],
            "GPTQ": lambda: gptq(W, H, args.bits),
        },
        args.turns,
    )
    return {
        f"{args.bits} bits {name}": {
            "seconds": seconds,
            "rows timed": args.outputs,
            "objective": share(W, result, H),
        }
        for name, (seconds, result) in found.items()
    }


# --- Writing ---


def table(title: str, rows: dict[str, Any]) -> list[str]:
    lines = [title, "", "| | seconds | objective | beside exact |", "|---|---|---|---|"]
    for name, row in rows.items():
        beside = f"{row['beside exact']:+.1%}" if "beside exact" in row else ""
        of = f" (from {row['rows timed']} rows)" if row["rows timed"] != row["rows"] else ""
        cells = (name, f"{row['seconds']:.3g}{of}", f"{row['objective']:.4f}", beside)
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def add_results(folder: Path, title: str, rows: dict[str, Any]) -> None:
    """Merge rows into the folder's results, and write them all as Markdown."""
    path = folder / "osbc.json"
    folder.mkdir(exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    results[title] = rows
    lines = [line for head, found in results.items() for line in table(head, found)]
    write_text(path, json.dumps(results, indent=1) + "\n")
    write_text(folder / "osbc.md", "\n".join(lines))
    print("\n".join(table(title, rows)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("layer", "quantize"))
    parser.add_argument("--inputs", type=int, default=1024)
    parser.add_argument("--outputs", type=int, default=256)
    parser.add_argument("--rows", type=int, default=2, help="rows of the plain loop; 0: none")
    parser.add_argument("--exact-rows", type=int, help="rows of the exact effort; default: all")
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = {"layer": layer, "quantize": quantize}[args.what](args)
    for row in rows.values():
        row["rows"] = args.outputs
    title = (
        f"{args.what}, {args.outputs} x {args.inputs}, {args.threads} thread(s) of {processor()}, "
        f"torch {torch.__version__}"
    )
    add_results(args.output, title, rows)


if __name__ == "__main__":
    main()
