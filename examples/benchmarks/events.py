"""Event-driven layers beside dense ones, on one CPU thread, by CPU time.

Candidates take turns in one process, round after round; the best round of each counts. Every table
is a ratio within that run.

    python examples/benchmarks/events.py            # prints, and writes results/events.md
    python examples/benchmarks/events.py --quick    # fewer rounds
    python examples/benchmarks/events.py --only shd
    python examples/benchmarks/events.py --figure events.png
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.cpu import processor

import spikeloom
from spikeloom.files import whole_file, write_text
from spikeloom.nn import SpikeConv2d, SpikeLinear, dense, event_driven, saved

Candidates = dict[str, Callable[[], object]]
# What a layer is called in the figure -> dense time / time by events at each of the rates.
Curves = dict[str, list[float]]
T, BATCH = 100, 32
RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)


def best(candidates: Candidates, rounds: int) -> dict[str, float]:
    """The fewest CPU milliseconds of each candidate."""
    found = dict.fromkeys(candidates, float("inf"))
    for function in candidates.values():
        function()
    for _ in range(rounds):
        for name, function in candidates.items():
            start = time.process_time()
            function()
            found[name] = min(found[name], 1e3 * (time.process_time() - start))
    return found


def fired(*shape: int, rate: float) -> torch.Tensor:
    return (torch.rand(shape) < rate).float()


def train(layer: nn.Module, x: torch.Tensor, gy: torch.Tensor) -> Callable[[], None]:
    """Forward and backward; the gradient of x if it wants one."""

    def step() -> None:
        layer.zero_grad()
        x.grad = None
        layer(x).backward(gy)

    return step


def level(size: int) -> str:
    """The smallest cache of this machine that holds so many bytes."""
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind = (index / "type").read_text().strip()
        bytes_ = int((index / "size").read_text().strip().removesuffix("K")) * 1024
        if kind != "Instruction" and size <= bytes_:
            return f"L{(index / 'level').read_text().strip()}"
    return "memory"


# --- A linear layer ---


def linear(
    inputs: int, outputs: int, rows: int, rounds: int, curves: Curves, *, wants_x: bool
) -> Iterator[str]:
    """Speed against firing rate, and what the weight's rows that were touched come to."""
    ours = SpikeLinear(inputs, outputs)
    plain = dense(copy.deepcopy(ours))
    gy = torch.randn(rows, outputs)
    also = ", input gradient too" if wants_x else ""
    yield f"Linear {inputs}-{outputs}, {rows} rows, forward and backward{also}"
    yield "| rate | dense ms | events ms | dense / events | rows touched MB | GB/s | held in |"
    yield "|---|---|---|---|---|---|---|"
    for rate in RATES:
        x = fired(rows, inputs, rate=rate).requires_grad_(wants_x)
        names = {"dense": train(plain, x, gy), "events": train(ours, x, gy)}
        found = best(names, rounds)
        # A row of the weight for each spike, and on the way back one of the gradient.
        touched = 2 * x.count_nonzero().item() * outputs * 4
        speed = touched / found["events"] / 1e6
        ratio = found["dense"] / found["events"]
        curves.setdefault(f"Linear {inputs}-{outputs}{also}", []).append(ratio)
        yield (
            f"| {rate:.0%} | {found['dense']:.2f} | {found['events']:.2f} | {ratio:.1f} "
            f"| {touched / 1e6:.0f} | {speed:.0f} | {level(inputs * outputs * 4)} |"
        )
    yield ""


def growth(rounds: int) -> Iterator[str]:
    """How the time grows with rate, width and steps, each doubled from a layer in the middle."""
    yield "Growth of the event-driven Linear 512-256, T=50, batch 32, at 5 %: each doubled in turn"
    yield "| doubled | events ms | times | dense ms | times |"
    yield "|---|---|---|---|---|"
    base: dict[str, float] = {}
    sizes = {
        "nothing": (512, 256, 50, 0.05),
        "rate": (512, 256, 50, 0.1),
        "inputs": (1024, 256, 50, 0.05),
        "outputs": (512, 512, 50, 0.05),
        "steps": (512, 256, 100, 0.05),
    }
    for name, (inputs, outputs, steps, rate) in sizes.items():
        ours = SpikeLinear(inputs, outputs, threshold=1.0)
        x, gy = fired(steps, BATCH, inputs, rate=rate), torch.randn(steps, BATCH, outputs)
        plain = dense(copy.deepcopy(ours))
        found = best({"events": train(ours, x, gy), "dense": train(plain, x, gy)}, rounds)
        base = base or found
        cells = [f"{found[k]:.2f} | {found[k] / base[k]:.1f}" for k in ("events", "dense")]
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""


# --- Convolutions ---


def convolutions(rounds: int, curves: Curves) -> Iterator[str]:
    """Where a convolution breaks even."""
    yield "Conv2d, 3x3, forward and backward without the input's gradient: dense / events"
    yield "| channels, image, batch | " + " | ".join(f"{rate:.0%}" for rate in RATES) + " |"
    yield "|---|" + "---|" * len(RATES)
    for channels, image, samples in ((32, 28, 64), (64, 32, 64), (128, 16, 64), (256, 8, 64)):
        ours = SpikeConv2d(channels, channels, 3, padding=1, threshold=1.0)
        plain = dense(copy.deepcopy(ours))
        gy, cells = torch.randn(samples, channels, image, image), []
        for rate in RATES:
            x = fired(samples, channels, image, image, rate=rate)
            found = best({"d": train(plain, x, gy), "e": train(ours, x, gy)}, rounds)
            cells.append(f"{found['d'] / found['e']:.2f}")
            name = f"Conv2d, {channels} channels, {image}x{image}"
            curves.setdefault(name, []).append(found["d"] / found["e"])
        yield f"| {channels}, {image}x{image}, {samples} | {' | '.join(cells)} |"
    yield ""


# --- Whole networks ---


class Recorded(nn.Module):
    """Layers with neurons between them, in the manner that ``run`` has."""

    def __init__(self, layers: list[nn.Module], run: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.layers, self.run = nn.ModuleList(layers), run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self.layers, x)


def in_spikingjelly(layers: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
    from spikingjelly.activation_based import functional

    for layer in layers:
        functional.reset_net(layer)
    for layer in layers:
        x = layer(x)
    return x


def in_snntorch(layers: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
    neurons = [layer for layer in layers if not isinstance(layer, nn.Linear)]
    states = {id(neuron): neuron.reset_mem() for neuron in neurons}
    found = []
    for now in x:
        for layer in layers:
            if id(layer) in states:
                now, states[id(layer)] = layer(now, states[id(layer)])
            else:
                now = layer(now)
        found.append(now)
    return torch.stack(found)


def in_norse(layers: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
    states: dict[int, object] = {}
    found = []
    for now in x:
        for number, layer in enumerate(layers):
            if isinstance(layer, nn.Linear):
                now = layer(now)
            else:
                now, states[number] = layer(now, states.get(number))
        found.append(now)
    return torch.stack(found)


def by_layer(layers: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
    for layer in layers:
        x = layer(x)
    return x


def networks(sizes: tuple[int, ...]) -> dict[str, nn.Module]:
    """The same multilayer perceptron in four frameworks, with the same weights."""
    import snntorch
    from norse.torch import LIFBoxCell
    from spikingjelly.activation_based import neuron

    weights = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    threshold = 0.12  # so that some 5 % of the hidden neurons fire

    def between(make: Callable[[], nn.Module]) -> list[nn.Module]:
        return [part for weight in copy.deepcopy(weights) for part in (weight, make())]

    def lif() -> nn.Module:
        return spikeloom.SpikingLayer(spikeloom.neurons.LIF(v_threshold=threshold))

    def jelly() -> nn.Module:
        return neuron.LIFNode(v_threshold=threshold, step_mode="m")

    return {
        "spikeloom, event-driven": event_driven(Recorded(between(lif), by_layer)),
        "spikeloom, dense": Recorded(between(lif), by_layer),
        "SpikingJelly": Recorded(between(jelly), in_spikingjelly),
        "snnTorch": Recorded(
            between(lambda: snntorch.Leaky(0.5, threshold=threshold)), in_snntorch
        ),
        "Norse": Recorded(between(LIFBoxCell), in_norse),
    }


def whole(title: str, sizes: tuple[int, ...], rate: float, rounds: int) -> Iterator[str]:
    """A training step of a whole network, its optimiser included."""
    x = fired(T, BATCH, sizes[0], rate=rate)
    target = torch.randint(sizes[-1], (BATCH,))
    steps: Candidates = {}
    nets = networks(sizes)

    def step(net: nn.Module) -> Callable[[], None]:
        optimiser = torch.optim.SGD(net.parameters(), lr=0.0)

        def once() -> None:
            optimiser.zero_grad()
            F.cross_entropy(net(x).mean(0), target).backward()
            optimiser.step()

        return once

    for name, net in nets.items():
        steps[name] = step(net)
    found = best(steps, rounds)
    layers = nets["spikeloom, dense"].layers
    hidden = layers[1](layers[0](x)).mean().item()
    base = found["spikeloom, event-driven"]
    size = "-".join(map(str, sizes))
    yield f"{title} {size}, T={T}, batch {BATCH}; input {rate:.0%}, hidden {hidden:.1%}"
    yield "| | ms a step | / event-driven |"
    yield "|---|---|---|"
    for name, ms in found.items():
        yield f"| {name} | {ms:.1f} | {ms / base:.1f} |"
    yield ""


# --- Memory ---


def bits_of(kept: saved._Packed) -> list[torch.Tensor]:
    spikes = kept.spikes
    return [t for t in (spikes.bits, spikes.negative, spikes.amplitude) if t is not None]


def kept_bytes(net: nn.Module, x: torch.Tensor, *, packed: bool = False) -> int:
    """Bytes of activations that are kept for the backward pass, each storage counted once."""
    sizes: dict[int, int] = {}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}

    def note(tensor: torch.Tensor) -> object:
        kept = saved._packed(tensor) if packed else saved._Kept(tensor, 0)
        tensors = bits_of(kept) if isinstance(kept, saved._Packed) else (kept.tensor,)
        for found in tensors:
            storage = found.untyped_storage()
            if storage.data_ptr() not in parameters:
                sizes[storage.data_ptr()] = storage.nbytes()
        return kept

    with torch.autograd.graph.saved_tensors_hooks(note, lambda kept: kept):
        y = net(x)
        total = sum(sizes.values())
    del y
    return total


class Attention(nn.Module):
    """A block like Spikformer's: spiking attention, then two layers, each with its residual."""

    def __init__(self, width: int, heads: int, fires: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.heads = heads
        sizes = {"q": (1, 1), "k": (1, 1), "v": (1, 1), "out": (1, 1), "up": (1, 4), "down": (4, 1)}
        self.weights = nn.ModuleDict(
            {name: nn.Linear(width * a, width * b) for name, (a, b) in sizes.items()}
        )
        self.norms = nn.ModuleDict(
            {name: nn.BatchNorm1d(width * b) for name, (_, b) in sizes.items()}
        )
        self.fires = nn.ModuleDict({name: fires() for name in (*sizes, "attention")})

    def layer(self, name: str, x: torch.Tensor) -> torch.Tensor:
        y = self.weights[name](x)
        return self.fires[name](self.norms[name](y.flatten(0, -2)).view(y.shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            self.layer(name, x).unflatten(-1, (self.heads, -1)).transpose(2, 3) for name in "qkv"
        )
        mixed = (q @ k.transpose(-1, -2) @ v).transpose(2, 3).flatten(-2)
        x = x + self.layer("out", self.fires["attention"](0.125 * mixed))
        return x + self.layer("down", self.layer("up", x))


def memory() -> Iterator[str]:
    """What is kept for the backward pass, beside SpikingJelly's own."""
    from spikingjelly.activation_based import layer, neuron

    from spikeloom.plugins import spikingjelly as ours

    def perceptron(sizes: tuple[int, ...], fires: Callable[[], nn.Module]) -> nn.Module:
        pairs = pairwise(sizes)
        parts = [part for a, b in pairs for part in (nn.Linear(a, b), fires())]
        return Recorded(parts, in_spikingjelly)

    def convolutional(fires: Callable[[], nn.Module]) -> nn.Module:
        def block(a: int, b: int) -> list[nn.Module]:
            conv = layer.Conv2d(a, b, 3, padding=1, bias=False, step_mode="m")
            return [conv, layer.BatchNorm2d(b, step_mode="m"), fires()]

        pool = layer.AvgPool2d(2, step_mode="m")
        parts = [*block(2, 64), *block(64, 64), pool, *block(64, 128), *block(128, 128)]
        end = [layer.Flatten(step_mode="m"), nn.Linear(128 * 16 * 16, 10)]
        return Recorded([*parts, *end], in_spikingjelly)

    cases = {
        "SHD-like 700-256-20": (
            lambda fires: perceptron((700, 256, 20), fires),
            fired(T, BATCH, 700, rate=0.05),
        ),
        "N-MNIST-like 2312-800-10": (
            lambda fires: perceptron((2312, 800, 10), fires),
            fired(T, BATCH, 2312, rate=0.02),
        ),
        "convolutions 64-64-128-128, 32x32": (
            convolutional,
            fired(4, 8, 2, 32, 32, rate=0.1),
        ),
        "Spikformer block, 256 wide, 64 tokens": (
            lambda fires: Recorded([Attention(256, 8, fires)], in_spikingjelly),
            fired(4, 16, 64, 256, rate=0.2),
        ),
    }
    yield "Kept for the backward pass, of what SpikingJelly keeps"
    yield "| | SpikingJelly MB | dense | event_driven | pack_saved | both |"
    yield "|---|---|---|---|---|---|"
    for name, (make, x) in cases.items():
        base = kept_bytes(make(lambda: neuron.LIFNode(step_mode="m")), x)
        cells = []
        for events, packed in ((False, False), (True, False), (False, True), (True, True)):
            net = make(lambda: ours.LIFNode(step_mode="m"))
            net = event_driven(net, threshold=1.0) if events else net
            cells.append(f"{kept_bytes(net, x, packed=packed) / base:.2f}")
        yield f"| {name} | {base / 1e6:.1f} | {' | '.join(cells)} |"
    yield ""


def draw(curves: Curves, path: Path) -> None:
    """Speed against firing rate."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for name, curve in curves.items():
        axes.plot([100 * rate for rate in RATES], curve, "o-", label=name)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="inputs that fire, %", ylabel="dense / events")
    axes.set_xticks([100 * rate for rate in RATES], [f"{100 * rate:.0f}" for rate in RATES])
    axes.set_yticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--only", help="a part: linear, growth, conv, shd, nmnist or memory")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--figure", type=Path, help="draw speed against firing rate there")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rounds = 3 if options.quick else 15
    fewer = max(2, rounds // 3)
    curves: Curves = {}
    parts: dict[str, Callable[[], Iterator[str]]] = {
        "linear": lambda: chain(
            linear(700, 256, T * BATCH, rounds, curves, wants_x=False),
            linear(700, 256, T * BATCH, rounds, curves, wants_x=True),
            linear(256, 20, T * BATCH, rounds, curves, wants_x=False),
        ),
        "growth": lambda: growth(rounds),
        "conv": lambda: convolutions(fewer, curves),
        "shd": lambda: whole("SHD-like", (700, 256, 20), 0.05, fewer),
        "nmnist": lambda: whole("N-MNIST-like", (2312, 800, 10), 0.02, fewer),
        "memory": memory,
    }
    lines = [f"{processor()}, one thread, CPU time, torch {torch.__version__}", ""]
    print(lines[0], flush=True)
    for name, part in parts.items():
        if options.only in (None, name):
            for line in part():
                lines.append(line)
                print(line, flush=True)
    if options.only is None:
        options.output.mkdir(exist_ok=True)
        write_text(options.output / "events.md", "\n".join(lines))
    if options.figure:
        draw({name: curve for name, curve in curves.items() if max(curve) > 1.1}, options.figure)


if __name__ == "__main__":
    main()
