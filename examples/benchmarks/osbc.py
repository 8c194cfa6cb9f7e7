"""How long pruning takes, beside a plain loop, and end to end on a network of N-MNIST size.

    python examples/benchmarks/osbc.py layer      # 1024 inputs, 256 rows, to 90 %
    python examples/benchmarks/osbc.py network    # 2312-256-10, T=100, 500 samples, to 97 %

The plain loop takes one weight at a time from one row at a time with full-size updates of the
inverse Hessian. Its rows cost the same each, so a few are timed; --rows 256 times them all.
Layers are timed by what the process computes, which other programs hardly disturb.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from torch import Tensor, nn

from spikeloom import SpikingLayer, compress, neurons
from spikeloom.compress.blocks import damped_inverse
from spikeloom.compress.order import Order
from spikeloom.compress.pruning import choose
from spikeloom.compress.removal import Removals, by_least_loss


def correlated_spikes(steps: int, samples: int, inputs: int, seed: int = 0) -> Tensor:
    """Synthetic spikes [steps, samples, inputs], about 5 %, driven by 64 slow hidden causes."""
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(steps, samples, 64, generator=generator)
    for t in range(1, steps):
        causes[t] = 0.8 * causes[t - 1] + 0.6 * causes[t]
    mixing = torch.randn(64, inputs, generator=generator) / 8
    noise = torch.randn(steps, samples, inputs, generator=generator)
    return (causes @ mixing + noise > 2.3).float()


def plain_loop(W: Tensor, H: Tensor, in_place: bool) -> Removals:
    """Optimal Brain Surgeon as it is usually written, or without temporaries."""
    inverse = damped_inverse(H)
    index, losses = torch.empty_like(W, dtype=torch.long), torch.empty_like(W)
    for row in range(len(W)):
        w, R = W[row].clone(), inverse.clone()
        left = torch.ones_like(w, dtype=torch.bool)
        for step in range(len(w)):
            cost = torch.where(left, w * w / R.diagonal(), torch.inf)
            p = int(cost.argmin())
            index[row, step], losses[row, step] = p, cost[p]
            left[p] = False
            column = R[:, p] / R[p, p]
            w -= column * w[p]
            if in_place:
                R.addr_(column, R[p].clone(), alpha=-1)
            else:
                R -= torch.outer(column, R[p])
            # What is gone must not be divided by.
            R[p, p] = 1.0
    return Removals(index, losses)


def objective(W: Tensor, pruned: Tensor, H: Tensor) -> float:
    change = pruned - W
    return 0.5 * float(((change @ H) * change).sum())


def layer(args: argparse.Namespace) -> None:
    spikes = correlated_spikes(50, 100, args.inputs)
    H = compress.layer_hessian(spikes, nn.Linear(args.inputs, args.outputs), neurons.Trace(0.5))
    W = torch.randn(args.outputs, args.inputs, dtype=torch.float64) * 0.05
    count = int(0.9 * W.numel())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    pruned, mask = compress.prune_weight(W, H, count, rounds=0)
    exact = time.process_time() - start
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    start = time.process_time()
    in_rounds, _ = compress.prune_weight(W, H, count, rounds=16)
    rounds = time.process_time() - start
    rows = min(args.rows, args.outputs)
    plain = {}
    for in_place in (False, True):
        start = time.process_time()
        reference = plain_loop(W[:rows], H, in_place)
        plain[in_place] = (time.process_time() - start) * args.outputs / rows
    gone = torch.zeros_like(W[:rows], dtype=torch.bool)
    ours = by_least_loss(W[:rows], H, Order(), gone)
    removed = int(mask[:rows].sum())
    same = torch.equal(*(choose(r, removed, Order(), gone) for r in (reference, ours)))
    print(f"{args.outputs} x {args.inputs} to 90 %, {torch.get_num_threads()} thread(s)")
    print("seconds of computing")
    print(f"plain loop           {plain[False]:8.1f} s   ({rows} of {args.outputs} rows timed)")
    print(f"  updated in place   {plain[True]:8.1f} s")
    print(f"prune_weight, exact  {exact:8.1f} s   {added:.0f} MB added")
    print(f"  {plain[False] / exact:.0f}x as fast as the loop, {plain[True] / exact:.0f}x in place")
    print(f"  same mask as the plain loop on those rows: {'yes' if same else 'no'}")
    worse = objective(W, in_rounds, H) / objective(W, pruned, H) - 1
    print(f"in 16 rounds         {rounds:8.1f} s   objective {worse:+.2%}")


def network(args: argparse.Namespace) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(2312, 256, bias=False),
        SpikingLayer(neurons.LIF(tau=2.0)),
        nn.Linear(256, 10, bias=False),
        SpikingLayer(neurons.LIF(tau=2.0)),
    ).eval()
    with torch.no_grad():
        net[0].weight *= 4
        net[2].weight *= 4
    batches = [correlated_spikes(100, 50, 2312, seed) for seed in range(10)]
    marks = [(time.perf_counter(), time.process_time())]
    stats = compress.calibrate(net, batches)
    marks.append((time.perf_counter(), time.process_time()))
    report = compress.prune(net, stats, sparsity=0.97, rounds=args.rounds)
    marks.append((time.perf_counter(), time.process_time()))
    print(report)
    print(f"2312-256-10, T=100, 500 samples, {torch.get_num_threads()} thread(s)")
    for what, before, after in zip(("calibrate", "prune"), marks, marks[1:], strict=False):
        clock, computing = after[0] - before[0], after[1] - before[1]
        print(f"{what:9s} {clock:6.1f} s by the clock, {computing:6.1f} s of computing")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("layer", "network"))
    parser.add_argument("--inputs", type=int, default=1024)
    parser.add_argument("--outputs", type=int, default=256)
    parser.add_argument("--rows", type=int, default=4, help="rows of the plain loop to time")
    parser.add_argument("--rounds", type=int, help="0: exact; default: as prune decides")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    {"layer": layer, "network": network}[arguments.what](arguments)
