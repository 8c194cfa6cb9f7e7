"""From a pretrained model to a small spiking one, with the numbers of every stage.

    python examples/compositions_digits.py --output out

Two ways, on scikit-learn's 8x8 digits. A spiking network is trained, pruned, fine-tuned, quantised
and finished; its norms are folded, it is proved to be free of multiplications, and goes to a NIR
file that is read and run again. A float network of the same sizes is pruned, quantised and
finished, and then converted by LAS. The tables go to the screen, a picture and a NIR file into the
folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from digits.data import Digits, load, over_time
from matplotlib.figure import Figure
from torch import Tensor, nn

from spikeloom import SpikingLayer, compress, convert, export, neurons
from spikeloom.files import whole_file, write_text
from spikeloom.report import Report
from spikeloom.verify import check_mfi, count_energy, fold_norms

SPARSITY, BITS = 0.9, 4
COLUMNS = ("stage", "accuracy %", "weights", "bits", "kB", "AC", "MAC", "proxy nJ")
SHOWN = 16  # images whose operations are counted


class SpikingNet(nn.Module):
    """64-128-64-10 with a batch norm behind each hidden layer; takes and returns ``[T, B, *]``."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm1, self.spikes1 = nn.Linear(64, 128), nn.BatchNorm1d(128), lif()
        self.two, self.norm2, self.spikes2 = nn.Linear(128, 64), nn.BatchNorm1d(64), lif()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape[:2]
        x = self.spikes1(self.norm1(self.one(x).flatten(0, 1)).unflatten(0, shape))
        x = self.spikes2(self.norm2(self.two(x).flatten(0, 1)).unflatten(0, shape))
        scores: Tensor = self.head(x)
        return scores


def lif() -> nn.Module:
    """A leaky neuron."""
    return SpikingLayer(neurons.LIF(tau=2.0, v_threshold=0.5))


def float_net() -> nn.Module:
    """The same sizes with GELU; takes and returns ``[B, *]``."""
    return nn.Sequential(
        nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64), nn.GELU(), nn.Linear(64, 10)
    )


def as_input(net: nn.Module, images: Tensor) -> Tensor:
    """Images as a network takes them: at every step, or once."""
    return over_time(images) if isinstance(net, SpikingNet) else images


def scores(net: nn.Module, images: Tensor) -> Tensor:
    """A score for each class."""
    y: Tensor = net(as_input(net, images))
    return y.mean(0) if y.dim() == 3 else y


def train(net: nn.Module, digits: Digits, epochs: int, rate: float) -> nn.Module:
    """Train a network in place."""
    optimizer = torch.optim.Adam(net.parameters(), rate)
    net.train()
    for _ in range(epochs):
        for index in torch.randperm(len(digits.train_labels)).split(64):
            loss = F.cross_entropy(
                scores(net, digits.train_images[index]), digits.train_labels[index]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


class Stages:
    """A table with a row for each stage."""

    def __init__(self, title: str, digits: Digits) -> None:
        self.digits = digits
        self.report = Report(title, COLUMNS)

    @torch.no_grad()
    def add(self, stage: str, net: nn.Module) -> None:
        """Measure a network: its accuracy, the weights that exist, and what it computes."""
        right = scores(net, self.digits.test_images).argmax(1) == self.digits.test_labels
        images = self.digits.test_images[:SHOWN]
        # A float network has no steps to read.
        counts = {} if isinstance(net, SpikingNet) else {"steps": 1, "batch": SHOWN}
        energy = count_energy(net, as_input(net, images), **counts)
        widths = dict(zip(energy.column("module"), energy.column("bits"), strict=True))
        layers = {n: m for n, m in net.named_modules() if isinstance(m, nn.Linear)}
        exist = {name: int(layer.weight.count_nonzero()) for name, layer in layers.items()}
        size = sum(count * (widths[name] or 32) for name, count in exist.items()) / 8e3
        bits = max(widths[name] or 32 for name in layers)
        accuracy = 100 * float(right.float().mean())
        operations = round(energy.accumulates), round(energy.macs), energy.proxy / 1e3
        self.report.add(stage, round(accuracy, 1), sum(exist.values()), bits, size, *operations)


def spiking_way(digits: Digits, epochs: int, output: Path) -> Report:
    """Train, prune, fine-tune, quantise, finish, fold, prove, write."""
    torch.manual_seed(0)
    stages = Stages("A spiking network", digits)
    net = train(SpikingNet(), digits, epochs, 3e-3)
    stages.add("trained", net)
    calibration = [over_time(digits.train_images[:256])]
    compress.prune(net, compress.calibrate(net, calibration), SPARSITY)
    stages.add(f"pruned to {SPARSITY:.0%}", net)
    train(net, digits, max(1, epochs // 2), 1e-3)
    stages.add("fine-tuned", net)
    compress.quantize(net, compress.calibrate(net, calibration), BITS)
    stages.add(f"{BITS} bits", net)
    done = fold_norms(compress.finish(net))
    proof = check_mfi(done, over_time(digits.test_images[:SHOWN]))
    stages.report.notes.append(f"Folded; multiplication free: {'yes' if proof.ok else 'no'}.")
    x = over_time(digits.test_images)
    path = output / "small.nir"
    _, told = export.to_nir(done, x[:, :SHOWN], path=path)
    with torch.no_grad():
        found, expected = export.run_nir(export.read(path), x), done(x)
    same = bool((found.mean(0).argmax(1) == expected.mean(0).argmax(1)).all())
    stages.report.notes.append(
        f"NIR: {path.stat().st_size / 1e3:.0f} kB, {100 * told.mismatch:g} % of the output "
        f"differs; all classes the same once read again: {'yes' if same else 'no'}."
    )
    return stages.report


def converted_way(digits: Digits, epochs: int) -> Report:
    """Train in float, prune, quantise, finish, convert."""
    torch.manual_seed(0)
    stages = Stages("A float network, converted by LAS", digits)
    net = train(float_net(), digits, epochs, 3e-3)
    stages.add("trained", net)
    images = digits.train_images[:256]
    stats = compress.calibrate(net, [images])
    compress.prune(net, stats, 0.75)
    stages.add("pruned to 75%", net)
    compress.quantize(net, stats, BITS)
    stages.add(f"{BITS} bits", net)
    snn: Any = convert.LAS(progress=False).apply(compress.finish(net), [images])
    stages.add("converted", snn)
    stages.report.notes.append(
        f"Converted: {snn.report.spikes_per_value:.2f} spikes a value, "
        f"{snn.report.energy:.2f} of the multiply-adds' energy (proxy)."
    )
    return stages.report


def draw(reports: list[Report], path: Path) -> None:
    """The size of the weights at each stage, and the accuracy above it."""
    figure = Figure(figsize=(9, 3.4), layout="constrained", dpi=110)
    for axes, report in zip(figure.subplots(1, len(reports)), reports, strict=True):
        bars = axes.bar(report.column("stage"), report.column("kB"), width=0.6, color="#0072b2")
        axes.bar_label(bars, [f"{share:.1f} %" for share in report.column("accuracy %")])
        axes.set(yscale="log", title=f"{report.title}: test accuracy", ylim=(0.5, 200))
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("kB of weights that exist")
    with whole_file(path) as temporary:
        figure.savefig(temporary)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("compositions-output"))
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    digits = load()
    reports = [
        spiking_way(digits, options.epochs, options.output),
        converted_way(digits, options.epochs),
    ]
    print("\n\n".join(map(str, reports)))
    write_text(
        options.output / "stages.json",
        json.dumps([report.as_dict() for report in reports], indent=2) + "\n",
    )
    draw(reports, options.output / "compositions.png")


if __name__ == "__main__":
    main()
