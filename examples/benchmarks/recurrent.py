"""Recurrent layers beside the hosts' own loops, on one CPU thread, by CPU time.

Candidates take turns in one process, round after round; the best round of each counts. Every table
is a ratio within that run.

    python examples/benchmarks/recurrent.py            # prints, and writes results/recurrent.md
    python examples/benchmarks/recurrent.py --quick    # fewer rounds
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import snntorch
import torch
from norse.torch import LIFBoxParameters, LIFRecurrent
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.cpu import processor
from benchmarks.events import best

import spikeloom
from spikeloom import neurons
from spikeloom.files import write_text
from spikeloom.plugins import norse as in_norse
from spikeloom.plugins import snntorch as in_snntorch
from spikeloom.plugins import spikingjelly as in_spikingjelly

N, T, BATCH, RATE = 256, 100, 32, 0.05
Run = Callable[[torch.Tensor], torch.Tensor]


def driven(run: Run, shape: tuple[int, ...], rate: float) -> torch.Tensor:
    """An input at which so large a share of the neurons fires, found by bisection."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    low, high = 0.0, 64.0
    with torch.no_grad():
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (middle, high) if run(middle * noise).mean() < rate else (low, middle)
    return (high * noise).requires_grad_()


def trained(module: nn.Module, run: Run, x: torch.Tensor) -> Callable[[], None]:
    """Forward and backward, with the gradients of the weights and of the input."""
    gy = torch.randn(x.shape)

    def step() -> None:
        module.zero_grad()
        x.grad = None
        run(x).backward(gy)

    return step


# --- The hosts' own, and ours in their place ---


def snntorch_loop(lif: nn.Module) -> Run:
    def run(x: torch.Tensor) -> torch.Tensor:
        spk = mem = torch.zeros_like(x[0])
        found = []
        for now in x:
            spk, mem = lif(now, spk, mem)
            found.append(spk)
        return torch.stack(found)

    return run


def spikingjelly_run(net: nn.Module) -> Run:
    def run(x: torch.Tensor) -> torch.Tensor:
        functional.reset_net(net)
        return net(x)

    return run


def pairs() -> Iterator[tuple[str, tuple[nn.Module, Run], tuple[nn.Module, Run]]]:
    """What each host has, and what takes its place."""
    theirs = snntorch.RLeaky(beta=0.5, linear_features=N)
    ours = in_snntorch.RLeaky(beta=0.5, linear_features=N)
    ours.load_state_dict(theirs.state_dict())
    yield "snnTorch RLeaky", (theirs, snntorch_loop(theirs)), (ours, lambda x: ours.sequence(x)[0])

    container = layer.LinearRecurrentContainer(neuron.LIFNode(), N, N, step_mode="m")
    mine = in_spikingjelly.LinearRecurrentContainer(in_spikingjelly.LIFNode(), N, N, step_mode="m")
    mine.load_state_dict(container.state_dict())
    name = "SpikingJelly LinearRecurrentContainer"
    yield name, (container, spikingjelly_run(container)), (mine, spikingjelly_run(mine))

    # Norse's has a synaptic current, which LIFBox has not; both have input weights.
    lif = LIFRecurrent(N, N)
    description = in_norse.LIFBox(LIFBoxParameters()).neuron
    box = nn.Sequential(nn.Linear(N, N, bias=False), spikeloom.Recurrent(description, N))
    yield "Norse LIFRecurrent (ours: LIFBox)", (lif, lambda x: lif(x)[0]), (box, box)


def beside_hosts(rounds: int) -> Iterator[str]:
    """Forward and backward of each host's own layer, and of ours."""
    yield f"N = {N}, T = {T}, batch {BATCH}, {RATE:.0%} firing, forward and backward"
    yield "| | host ms | ours ms | host / ours |"
    yield "|---|---|---|---|"
    for name, theirs, ours in pairs():
        steps = {
            key: trained(module, run, driven(run, (T, BATCH, N), RATE))
            for key, (module, run) in (("host", theirs), ("ours", ours))
        }
        found = best(steps, rounds)
        ratio = found["host"] / found["ours"]
        yield f"| {name} | {found['host']:.1f} | {found['ours']:.1f} | {ratio:.1f} |"
    yield ""


def growth(rounds: int) -> Iterator[str]:
    """How the time grows with steps, width, batch and rate, each doubled in turn."""
    yield "Growth of Recurrent(Leaky), by events wherever it may and dense, each doubled in turn"
    yield "| doubled | events ms | times | dense ms | times |"
    yield "|---|---|---|---|---|"
    base: dict[str, float] = {}
    sizes = {
        "nothing": (N, T, BATCH, RATE),
        "steps": (N, 2 * T, BATCH, RATE),
        "neurons": (2 * N, T, BATCH, RATE),
        "batch": (N, T, 2 * BATCH, RATE),
        "rate": (N, T, BATCH, 2 * RATE),
    }
    for name, (width, steps, batch, rate) in sizes.items():
        events = spikeloom.Recurrent(neurons.Leaky(0.5), width, events_up_to=1.0)
        dense = spikeloom.Recurrent(neurons.Leaky(0.5), events.weight, events_up_to=0.0)
        x = driven(events, (steps, batch, width), rate)
        found = best(
            {"events": trained(events, events, x), "dense": trained(dense, dense, x)}, rounds
        )
        base = base or found
        cells = [f"{found[k]:.1f} | {found[k] / base[k]:.1f}" for k in ("events", "dense")]
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""


def densities(rounds: int) -> Iterator[str]:
    """Where the product by events breaks even."""
    yield f"Recurrent(Leaky), N = {N} and {2 * N}, T = {T}, batch {BATCH}: dense / events"
    rates = (0.02, 0.05, 0.1, 0.2, 0.4)
    yield "| N | " + " | ".join(f"{rate:.0%}" for rate in rates) + " |"
    yield "|---|" + "---|" * len(rates)
    for width in (N, 2 * N):
        events = spikeloom.Recurrent(neurons.Leaky(0.5), width, events_up_to=1.0)
        dense = spikeloom.Recurrent(neurons.Leaky(0.5), events.weight, events_up_to=0.0)
        cells = []
        for rate in rates:
            x = driven(events, (T, BATCH, width), rate)
            steps = {"e": trained(events, events, x), "d": trained(dense, dense, x)}
            found = best(steps, rounds)
            cells.append(f"{found['d'] / found['e']:.2f}")
        yield f"| {width} | {' | '.join(cells)} |"
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rounds = 3 if options.quick else 15
    lines = [f"{processor()}, one thread, CPU time, torch {torch.__version__}", ""]
    print(lines[0], flush=True)
    for part in (beside_hosts, growth, densities):
        for line in part(rounds):
            lines.append(line)
            print(line, flush=True)
    options.output.mkdir(exist_ok=True)
    write_text(options.output / "recurrent.md", "\n".join(lines))


if __name__ == "__main__":
    main()
