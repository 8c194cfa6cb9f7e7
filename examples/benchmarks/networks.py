"""A training step of whole networks: ours in each framework beside the framework's own neurons.

Every network is built twice from the framework's own classes, with its own neurons and with ours,
and a third time without neurons: what they leave is convolutions, matrix products and norms, which
are the same for all. The three take turns in one process, on one thread; the CPU time of the best
round counts. Memory is what autograd keeps for the backward pass, weights left out.

    python examples/benchmarks/networks.py          # prints, and writes networks.json and .md
    python examples/benchmarks/networks.py --quick  # fewer rounds, without the two large networks
"""

import argparse
import json
import sys
import time
import types
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import norse.torch as norse
import snntorch
import torch
from cpu import processor
from snntorch import surrogate as snn_surrogate
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from spikeloom.files import write_text
from spikeloom.plugins import norse as our_norse
from spikeloom.plugins import snntorch as our_snntorch
from spikeloom.plugins import spikingjelly as our_spikingjelly
from spikeloom.report import Report

Step = Callable[[], Tensor]
Neuron = Callable[[], nn.Module]
FRAMEWORKS = ("SpikingJelly", "snnTorch", "Norse")


class Case(NamedTuple):
    """One network in one framework: what makes its forward pass from what makes its neurons.

    Attributes:
        network: Its name.
        framework: Whose classes it is made of.
        ours: Makes the forward pass of the network with our neurons,
        own: with the framework's own,
        bare: and without neurons.
    """

    network: str
    framework: str
    ours: Callable[[], Step]
    own: Callable[[], Step]
    bare: Callable[[], Step]


# --- Multi-layer perceptrons, in all frameworks ---

ATAN = surrogate.ATan()
LEAKY = {"beta": 0.5, "spike_grad": snn_surrogate.atan(alpha=2.0)}
BOX = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0))


class Nothing(nn.Module):
    """In the place of a neuron: its input is its output, in every framework's way of a call."""

    def reset_mem(self) -> Tensor:
        return torch.zeros(0)

    def forward(self, x: Tensor, state: object = None) -> tuple[Tensor, object]:
        return x, state


class Passing(nn.Identity):
    """The same for SpikingJelly, which calls it like a LIFNode."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()


def dense(sizes: tuple[int, ...]) -> list[nn.Module]:
    return [nn.Linear(a, b) for a, b in pairwise(sizes)]


def spikingjelly_mlp(sizes: tuple[int, ...], x: Tensor, make: Neuron, stepped: bool) -> Step:
    parts = [part for linear in dense(sizes) for part in (linear, make())]
    net = nn.Sequential(*parts)
    if stepped:
        functional.set_step_mode(net, "s")

    def forward() -> Tensor:
        functional.reset_net(net)
        return sum(net(now) for now in x) if stepped else net(x).sum(0)

    return forward


def by_states(sizes: tuple[int, ...], x: Tensor, make: Neuron) -> Step:
    """Step by step, states in and out, as the tutorials of snnTorch and Norse write it."""
    linears, neurons = dense(sizes), [make() for _ in sizes[1:]]

    def forward() -> Tensor:
        states: list[object] = [
            part.reset_mem() if hasattr(part, "reset_mem") else None for part in neurons
        ]
        total: Tensor | float = 0.0
        for spikes in x:
            for i, (linear, part) in enumerate(zip(linears, neurons, strict=True)):
                spikes, states[i] = part(linear(spikes), states[i])
            total = total + spikes
        return total

    return forward


def by_sequences(sizes: tuple[int, ...], x: Tensor, make: Neuron) -> Step:
    """Layer by layer, the whole sequence at once."""
    linears, neurons = dense(sizes), [make() for _ in sizes[1:]]

    def forward() -> Tensor:
        spikes = x
        for linear, part in zip(linears, neurons, strict=True):
            call = getattr(part, "sequence", part)
            spikes = call(linear(spikes))[0]
        return spikes.sum(0)

    return forward


def mlps(name: str, sizes: tuple[int, ...], steps: int, batch: int, stepped: bool) -> list[Case]:
    x = (torch.rand(steps, batch, sizes[0]) < 0.3).float() * 2
    lif = {"tau": 2.0, "surrogate_function": ATAN, "step_mode": "s" if stepped else "m"}
    jelly = [lambda: our_spikingjelly.LIFNode(**lif), lambda: neuron.LIFNode(**lif), Passing]
    leaky = [lambda: our_snntorch.Leaky(**LEAKY), lambda: snntorch.Leaky(**LEAKY), Nothing]
    cell = [lambda: our_norse.LIFBoxCell(BOX), lambda: norse.LIFBoxCell(BOX), Nothing]
    box = lambda: our_norse.LIFBox(BOX)  # noqa: E731 -- beside its like
    first = by_states if stepped else by_sequences
    title = f"{name}, {steps} steps, batch {batch}" + (", step by step" if stepped else "")

    def made(way: Callable[..., Step], make: Neuron, *more: object) -> Callable[[], Step]:
        return lambda: way(sizes, x, make, *more)

    return [
        Case(title, "SpikingJelly", *(made(spikingjelly_mlp, make, stepped) for make in jelly)),
        Case(
            title,
            "snnTorch",
            made(first, leaky[0]),
            *(made(by_states if make is leaky[1] else first, make) for make in leaky[1:]),
        ),
        Case(
            title,
            "Norse",
            made(first, cell[0] if stepped else box),
            made(by_states, cell[1]),
            made(first, Nothing),
        ),
    ]


# --- Networks of SpikingJelly ---


def convolutions(make: Neuron) -> nn.Module:
    parts: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
        parts += [layer.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
        parts += [layer.BatchNorm2d(outputs), make(), layer.MaxPool2d(2)]
    net = nn.Sequential(*parts, layer.Flatten(), layer.Linear(128 * 16, 10))
    functional.set_step_mode(net, "m")
    return net


def sew_resnet18(node: type[nn.Module]) -> nn.Module:
    _stand_in_for_torchvision()
    from spikingjelly.activation_based.model import sew_resnet

    settings = {"cnf": "ADD", "num_classes": 10, "surrogate_function": ATAN}
    net = sew_resnet.sew_resnet18(spiking_neuron=node, **settings)
    functional.set_step_mode(net, "m")
    return net


def _stand_in_for_torchvision() -> None:
    """SpikingJelly's file imports a downloader of weights from it, which nothing here calls."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        for name in ("torchvision", "torchvision.models", "torchvision.models.utils"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules[name].load_state_dict_from_url = None  # type: ignore[attr-defined]


def spikformer(node: type[nn.Module]) -> nn.Module:
    from spikingjelly.activation_based.model import spikformer as model

    settings = {"tau": 2.0, "surrogate_function": ATAN}
    return model.spikformer_cifar10(num_classes=10, spiking_neuron=node, **settings)


def of_spikingjelly(name: str, build: Callable[..., nn.Module], x: Tensor, *nodes: object) -> Case:
    def made(node: object) -> Callable[[], Step]:
        def step() -> Step:
            net = build(node)

            def forward() -> Tensor:
                functional.reset_net(net)
                return net(x).mean(0)

            return forward

        return step

    title = f"{name}, {x.shape[0]} steps, batch {x.shape[1]}"
    return Case(title, "SpikingJelly", *map(made, nodes))


def networks(quick: bool) -> list[Case]:
    lif = {"tau": 2.0, "surrogate_function": ATAN, "step_mode": "m"}
    ours, own = our_spikingjelly.LIFNode, neuron.LIFNode
    made = (lambda: ours(**lif), lambda: own(**lif), Passing)
    pictures = torch.rand(4, 8, 3, 32, 32)
    cases = [
        *mlps("MLP 64-256-10", (64, 256, 10), 16, 32, stepped=False),
        *mlps("MLP 64-256-10", (64, 256, 10), 16, 1, stepped=True),
        *mlps("MLP 700-256-20", (700, 256, 20), 100, 32, stepped=False),
        of_spikingjelly("conv 32-64-128 with norms", convolutions, pictures, *made),
    ]
    if not quick:
        classes = (ours, own, Passing)
        cases.append(of_spikingjelly("SEW-ResNet18", sew_resnet18, pictures[:, :4], *classes))
        cases.append(of_spikingjelly("Spikformer", spikformer, pictures[:, :4], *classes))
    return cases


# --- Measuring ---


def measured(case: Case, rounds: int) -> dict[str, dict[str, float]]:
    """CPU milliseconds of a training step, and megabytes kept for its backward pass."""
    steps = {name: getattr(case, name)() for name in ("ours", "own", "bare")}
    best = dict.fromkeys(steps, float("inf"))
    kept = {name: kept_bytes(step) / 2**20 for name, step in steps.items()}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            step().sum().backward()
            best[name] = min(best[name], 1e3 * (time.process_time() - start))
    return {name: {"ms": best[name], "MB kept": kept[name]} for name in steps}


def kept_bytes(step: Step) -> int:
    """Bytes that autograd keeps for the backward pass, without those of weights."""
    storages: dict[int, int] = {}

    def note(kept: Tensor) -> Tensor:
        if not isinstance(kept, nn.Parameter) and not (kept.is_leaf and kept.requires_grad):
            memory = kept.untyped_storage()
            storages[memory.data_ptr()] = memory.nbytes()
        return kept

    with torch.autograd.graph.saved_tensors_hooks(note, lambda kept: kept):
        step().sum().backward()
    return sum(storages.values())


def table(results: list[dict[str, object]]) -> Report:
    columns = (
        "network", "beside", "ms", "its own ms", "times faster", "neurons' share", "of its own",
        "kept / its own",
    )  # fmt: skip
    report = Report("A training step of whole networks, one thread", columns)
    for result in results:
        ours, own, bare = (result[name] for name in ("ours", "own", "bare"))
        shares = [max(0.0, 1 - bare["ms"] / found["ms"]) for found in (ours, own)]
        report.add(
            result["network"],
            result["framework"],
            ours["ms"],
            own["ms"],
            own["ms"] / ours["ms"],
            *shares,
            ours["MB kept"] / own["MB kept"],
        )
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, small networks only")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for case in networks(options.quick):
        torch.manual_seed(0)
        small = case.network.startswith("MLP 64")
        rounds = (8 if small else 2) if options.quick else (60 if small else 8)
        found = measured(case, rounds)
        results.append({"network": case.network, "framework": case.framework, **found})
        print(f"{case.network}, {case.framework}: {found['own']['ms'] / found['ours']['ms']:.2f}")
    packages = ("torch", "llvmlite", "spikingjelly", "snntorch", "norse")
    versions = {name: version(name) for name in packages}
    report = table(results)
    machine = f"{processor()}; " + ", ".join(f"{k} {v}" for k, v in versions.items())
    print(report)
    options.output.mkdir(exist_ok=True)
    facts = {"processor": processor(), "versions": versions, "networks": results}
    write_text(options.output / "networks.json", json.dumps(facts, indent=1) + "\n")
    write_text(options.output / "networks.md", f"{machine}\n\n```text\n{report}\n```\n")


if __name__ == "__main__":
    main()
