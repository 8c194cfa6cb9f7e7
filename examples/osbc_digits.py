"""Prune and quantise trained spiking networks without retraining, in three frameworks.

    python examples/osbc_digits.py                                  # SpikingJelly, latency code
    python examples/osbc_digits.py --host snntorch norse --code rate latency --seeds 0 1 2
    python examples/osbc_digits.py --net conv --code rate

8x8 digits (scikit-learn), 12 steps; a multilayer perceptron or a small convolutional network is
trained with the framework's own layers and neurons, calibrated on 256 training images, and pruned
or quantised by each method. Test accuracy in percent, mean and range over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from spikeloom import compress
from spikeloom.report import Report

STEPS = 12
TRAIN = 1200


# --- Images as spikes -------------------------------------------------------------------------


def rate_code(images: Tensor, generator: torch.Generator) -> Tensor:
    """A spike at each step with the probability of the pixel's brightness, [T, batch, ...]."""
    noise = torch.rand((STEPS, *images.shape), generator=generator)
    return (noise < images).float()


def latency_code(images: Tensor, generator: torch.Generator) -> Tensor:
    """One spike a pixel, the earlier the brighter; black pixels are silent."""
    when = ((1 - images) * (STEPS - 1)).round()
    steps = torch.arange(STEPS).reshape(-1, *(1,) * images.dim())
    return ((when == steps) & (images > 0)).float()


CODES = {"rate": rate_code, "latency": latency_code}
# Time constant of the membranes, and whether they divide their input by it.
MEMBRANES = {"rate": (2.0, True), "latency": (4.0, False)}


# --- The same network in each framework -------------------------------------------------------


def weight_layers(net: str) -> list[list[nn.Module]]:
    """Groups of layers, each followed by a layer of neurons."""
    if net == "mlp":
        return [[nn.Linear(64, 128)], [nn.Linear(128, 64)], [nn.Linear(64, 10)]]
    return [
        [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)],
        [nn.AvgPool2d(2), nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)],
        [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 64)],
        [nn.Linear(64, 10)],
    ]


def spikingjelly_network(net: str, tau: float, decay_input: bool) -> nn.Module:
    from spikingjelly.activation_based import layer, neuron, surrogate

    parts: list[nn.Module] = []
    for group in weight_layers(net):
        node = neuron.LIFNode(tau, decay_input, surrogate_function=surrogate.ATan(), step_mode="m")
        parts += [layer.SeqToANNContainer(*group), node]
    return nn.Sequential(*parts)


class Loop(nn.Module):
    """snnTorch's and Norse's way: cells that are called once a step, states in and out."""

    def __init__(self, net: str, cell: Callable[[], nn.Module], gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        groups = weight_layers(net)
        self.layers = nn.ModuleList(nn.Sequential(*group) for group in groups)
        self.cells = nn.ModuleList(cell() for _ in groups)

    def forward(self, spikes: Tensor) -> Tensor:
        states = [self.rest(cell) for cell in self.cells]
        outputs = []
        for x in spikes:
            for i, (layer, cell) in enumerate(zip(self.layers, self.cells, strict=True)):
                x, states[i] = cell(self.gain * layer(x), states[i])
            outputs.append(x)
        return torch.stack(outputs)

    def rest(self, cell: nn.Module) -> object:
        return cell.reset_mem() if hasattr(cell, "reset_mem") else None


def snntorch_network(net: str, tau: float, decay_input: bool) -> nn.Module:
    import snntorch

    # snnTorch's neurons never divide their input: the weights are smaller instead.
    return Loop(net, lambda: snntorch.Leaky(1 - 1 / tau, reset_mechanism="zero"))


def norse_network(net: str, tau: float, decay_input: bool) -> nn.Module:
    import norse.torch as norse

    # Norse's neurons always divide their input by tau; the gain undoes it.
    p = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(1000 / tau), alpha=torch.tensor(100.0))
    return Loop(net, lambda: norse.LIFBoxCell(p), gain=1.0 if decay_input else tau)


NETWORKS = {
    "spikingjelly": spikingjelly_network,
    "snntorch": snntorch_network,
    "norse": norse_network,
}


# --- Training and evaluation ------------------------------------------------------------------


def logits(network: nn.Module, spikes: Tensor) -> Tensor:
    compress.reset_states(network)
    return network(spikes).sum(0)


def train(network: nn.Module, spikes: Tensor, labels: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    network.train()
    for _ in range(epochs):
        for index in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(logits(network, spikes[:, index]), labels[index]).backward()
            optimizer.step()
    compress.reset_states(network)
    network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, spikes: Tensor, labels: Tensor) -> float:
    return 100 * float((logits(network, spikes).argmax(1) == labels).float().mean())


def pilot(host: str, net: str, code: str, seed: int, epochs: int) -> dict[tuple[str, str], float]:
    """Accuracy by method and degree of compression, for one trained network."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    images = images.float() / 16
    images = images.reshape(-1, 1, 8, 8) if net == "conv" else images
    order = torch.randperm(len(images), generator=generator)
    spikes = CODES[code](images[order], generator)
    labels = labels[order]
    network = NETWORKS[host](net, *MEMBRANES[code])
    train(network, spikes[:, :TRAIN], labels[:TRAIN], epochs)

    stats = compress.calibrate(network, [spikes[:, :256]])

    def evaluate(candidate: nn.Module) -> float:
        return accuracy(candidate, spikes[:, TRAIN:], labels[TRAIN:])

    found = {("dense", ""): evaluate(network)}
    for method, sparsity, score in compress.sweep_sparsity(network, stats, evaluate).rows:
        found[f"prune {method}", f"{sparsity:.0%}"] = score
    for method, bits, score in compress.sweep_bits(network, stats, evaluate).rows:
        found[f"quantize {method}", f"{bits} bit"] = score
    return found


def spread(scores: list[float]) -> str:
    mean = sum(scores) / len(scores)
    return f"{mean:.1f} ({min(scores):.1f}-{max(scores):.1f})" if len(scores) > 1 else f"{mean:.1f}"


def summarise(title: str, runs: list[dict[tuple[str, str], float]]) -> list[Report]:
    """One table for pruning and one for quantisation."""
    dense = spread([run["dense", ""] for run in runs])
    reports = []
    for kind in ("prune", "quantize"):
        keys = [key for key in runs[0] if key[0].startswith(kind)]
        degrees = list(dict.fromkeys(degree for _, degree in keys))
        report = Report(f"{title}, dense {dense}", (kind, *degrees))
        for method in dict.fromkeys(method for method, _ in keys):
            scores = [spread([run[method, degree] for run in runs]) for degree in degrees]
            report.add(method.removeprefix(f"{kind} "), *scores)
        reports.append(report)
    margins = sorted(run["prune osbc", "95%"] - run["prune obs", "95%"] for run in runs)
    reports[0].notes.append(
        f"osbc - obs at 95 %: median {margins[len(margins) // 2]:+.1f} points, each seed "
        + ", ".join(f"{run['prune osbc', '95%'] - run['prune obs', '95%']:+.1f}" for run in runs)
    )
    return reports


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", nargs="+", choices=NETWORKS, default=["spikingjelly"])
    parser.add_argument("--net", nargs="+", choices=("mlp", "conv"), default=["mlp"])
    parser.add_argument("--code", nargs="+", choices=CODES, default=["latency"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=18)
    args = parser.parse_args()
    for host in args.host:
        for net in args.net:
            for code in args.code:
                runs = [pilot(host, net, code, seed, args.epochs) for seed in args.seeds]
                for report in summarise(f"{host}, {net}, {code} code", runs):
                    print(report, end="\n\n", flush=True)


if __name__ == "__main__":
    main()
