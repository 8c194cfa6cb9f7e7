"""signGD conversion: the fast path beside a loop over the steps of the same graph.

Four networks on 8x8 digits (examples/signgd_digits.py), T = 32, one thread. The loop is what one
writes by hand: at each step every operator of the graph is called once, and every node moves its
estimate by the eager step. Nothing is interpreted between two operators; torch.fx writes the loop's
Python code. Candidates take turns of equal length; the best call of each counts, in CPU time.

The last column but one is the time of the convolutions and linear layers alone, which both have to
do: no fast path can be faster.

    python examples/benchmarks/signgd.py            # prints, and writes results/signgd.{json,md}
    python examples/benchmarks/signgd.py --quick    # fewer rounds, weights as they come
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.cpu import processor
from beyond_relu.training import train
from signgd_digits import NETWORKS, load

from spikeloom import convert
from spikeloom.convert.signgd.network import SignGDNetwork
from spikeloom.files import write_text

STEPS, BATCHES = 32, (1, 8, 64, 450)
TURN = 0.02  # seconds
ARITHMETIC = ("convolution", "addmm", "mm", "bmm", "linear")
Candidates = dict[str, Callable[[], object]]


# --- The loop ---


class Tracking(nn.Module):
    """The eager step of a node, on torch tensors."""

    def __init__(self, sizes: list[Tensor], strict: bool) -> None:
        super().__init__()
        self.sizes, self.strict = sizes, strict
        self.start()

    def start(self) -> None:
        self.t, self.y = 0, torch.zeros(())

    def forward(self, target: Tensor) -> Tensor:
        step, y = self.sizes[self.t], self.y
        self.y = y + torch.where(y > target if self.strict else y >= target, -step, step)
        self.t += 1
        return self.y


class Loop:
    """A converted network, one step after another."""

    def __init__(self, network: SignGDNetwork) -> None:
        self.module, self.steps = copy.deepcopy(network.operators), network.steps
        self.nodes: dict[str, Tracking] = {}
        graph = self.module.graph
        for site in network.plan.sites:
            etas = torch.tensor(network.schedules[site.name].steps(self.steps))
            sizes = [torch.as_tensor(network.scales[site.name]) * eta for eta in etas]
            self.nodes[site.name] = Tracking(sizes, site.strict)
            self.module.add_module(f"track_{site.name}", self.nodes[site.name])
            node = next(node for node in graph.nodes if node.name == site.name)
            with graph.inserting_after(node):
                tracked = graph.call_module(f"track_{site.name}", (node,))
            _replace(node, tracked)
        self.module.recompile()

    def __call__(self, *inputs: Any) -> list[Any]:
        """The outputs of the last step."""
        for node in self.nodes.values():
            node.start()
        for _ in range(self.steps):
            outputs = self.module(*inputs)
        return list(outputs)


def _replace(node: fx.Node, tracked: fx.Node) -> None:
    node.replace_all_uses_with(tracked, delete_user_cb=lambda user: user is not tracked)


# --- What both have to do ---


class Recorded(TorchDispatchMode):
    """Notes the convolutions and matrix products of a call, to run them alone."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], object]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func._schema.name.partition("::")[2] in ARITHMETIC:
            self.calls.append(lambda: func(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def arithmetic(network: SignGDNetwork, x: Tensor) -> Callable[[], None]:
    with Recorded() as recorded:
        network(x)

    def run() -> None:
        for call in recorded.calls:
            call()

    return run


# --- Measuring ---


def interleaved(candidates: Candidates, rounds: int, seconds: float) -> dict[str, float]:
    """Best milliseconds of CPU time of each candidate; they take turns in every round."""
    best = dict.fromkeys(candidates, float("inf"))
    start, done = time.perf_counter(), 0
    while done < rounds or time.perf_counter() - start < seconds:
        for name, function in candidates.items():
            best[name] = min(best[name], 1e3 * turn(function))
        done += 1
    return best


def turn(function: Callable[[], object]) -> float:
    """The least CPU seconds of a call, among as many as fit into a turn, or the only one."""
    start, best = time.process_time(), float("inf")
    while time.process_time() - start < TURN or best == float("inf"):
        before = time.process_time()
        function()
        best = min(best, time.process_time() - before)
    return best


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    data = load(0)
    model = train(NETWORKS[name], data, 0, 0 if options.quick else 40)
    network = convert.SignGD(STEPS).apply(model, data[0])
    loop, rounds = Loop(network), 3 if options.quick else 9
    found: dict[str, Any] = {}
    with torch.no_grad():
        found["difference"] = float((network(data[1]) - loop(data[1])[0]).abs().max())
        for batch in BATCHES:
            x = data[1][:batch]
            candidates: Candidates = {
                "fast": lambda x=x: network(x),
                "loop": lambda x=x: loop(x),
                "arithmetic": arithmetic(network, x),
            }
            found[str(batch)] = interleaved(candidates, rounds, 0.0 if options.quick else 2.0)
    return found


def table(result: dict[str, Any]) -> list[str]:
    columns = [f"{batch} images" for batch in BATCHES]
    head = ("network", *columns, "arithmetic alone, 450", "difference")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, found in result["networks"].items():
        cells = [_ratio(found[str(batch)]) for batch in BATCHES]
        most = found[str(BATCHES[-1])]
        cells += [f"{most['arithmetic']:.3g} ms", f"{found['difference']:.1e}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _ratio(times: dict[str, float]) -> str:
    return f"**{times['loop'] / times['fast']:.1f}x** ({times['fast']:.3g}, {times['loop']:.3g} ms)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, untrained networks")
    parser.add_argument("--net", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    versions = {name: version(name) for name in ("torch", "llvmlite")}
    result: dict[str, Any] = {"processor": processor(), "versions": versions, "steps": STEPS}
    result["networks"] = {name: measured(name, options) for name in options.net}
    machine = ", ".join(f"{name} {number}" for name, number in versions.items())
    title = f"signGD, T={STEPS}, one thread of {processor()}; {machine}; fast path, loop"
    text = "\n".join([title, "", *table(result)]) + "\n"
    print(text)
    options.output.mkdir(exist_ok=True)
    write_text(options.output / "signgd.json", json.dumps(result, indent=1) + "\n")
    write_text(options.output / "signgd.md", text)


if __name__ == "__main__":
    main()
