"""Train the multiplication-free spiking MLP on handwritten digits, then prove what it claims.

In each framework and beside its ANN twin: accuracy, firing rates, the proof that the folded network
multiplies nothing behind its stem, operation counts, and a NIR file that fires the same spikes. The
data are scikit-learn's 1,797 digits of 8 x 8 pixels; nothing is downloaded.

    python examples/spiking_mlp_digits.py                    # 3 seeds, 20 epochs: some minutes
    python examples/spiking_mlp_digits.py --epochs 1 --seeds 1 --hosts norse
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import spikeloom
from spikeloom import plugins
from spikeloom.models import SpikingMLP
from spikeloom.report import Report
from spikeloom.verify import check_mfi, count_energy, fold_norms

HOSTS = ("neutral", "spikingjelly", "snntorch", "norse")
Data = tuple[Tensor, Tensor]


def digits() -> tuple[Data, Data]:
    """1,347 images to train, 450 to test, as [N, 1, 8, 8] in [0, 1]."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=450, stratify=labels, random_state=0)
    train_x, test_x = (torch.tensor(x / 16).float().reshape(-1, 1, 8, 8) for x in parts[:2])
    train_y, test_y = (torch.tensor(y) for y in parts[2:])
    return (train_x, train_y), (test_x, test_y)


def network(make: Callable) -> SpikingMLP:
    """Two stages, 4x4 and 2x2 tokens, 42,870 parameters."""
    return SpikingMLP(
        image_size=8,
        patch_size=2,
        in_channels=1,
        num_classes=10,
        dim=24,
        depths=(1, 1),
        steps=4,
        make=make,
    )


def host(name: str) -> tuple[Callable, Callable[[nn.Module], None]]:
    """How a framework makes neurons, and how it forgets between batches."""
    if name == "spikingjelly":
        from spikingjelly.activation_based import functional

        return plugins.spikingjelly.make, functional.reset_net
    if name == "neutral":
        return spikeloom.SpikingLayer, lambda model: None
    # Their neurons start at rest at each call, unless told otherwise.
    return getattr(plugins, name).make, lambda model: None


def train(
    model: nn.Module, data: Data, epochs: int, seed: int, reset: Callable[[nn.Module], None]
) -> float:
    """The published recipe in small; returns the fastest epoch in seconds."""
    x, y = data
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    model.train()
    times = []
    for _ in range(epochs):
        start = time.perf_counter()
        for batch in torch.randperm(len(x), generator=order).split(96):
            if len(batch) < 96:  # batch norm deserves whole batches
                continue
            optimizer.zero_grad()
            loss(model(x[batch]).mean(0), y[batch]).backward()
            optimizer.step()
            reset(model)
        schedule.step()
        times.append(time.perf_counter() - start)
    return min(times)


@torch.no_grad()
def accuracy(model: nn.Module, data: Data, reset: Callable[[nn.Module], None]) -> float:
    """Percent of test images whose mean score over time is right."""
    x, y = data
    model.eval()
    right = (model(x).mean(0).argmax(1) == y).float().mean().item()
    reset(model)
    return 100 * right


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--hosts", nargs="+", default=HOSTS, choices=HOSTS)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--epochs", type=int, default=20)
    arguments.add_argument("--out", type=Path, help="folder for reports and the picture")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    training, test = digits()

    columns = ("network", "seed", "accuracy %", "firing rate %", "epoch s")
    runs = Report("Digits, T=4", columns)
    for seed in range(options.seeds):
        for name in options.hosts:
            make, reset = host(name)
            torch.manual_seed(seed)
            model = network(make)
            seconds = train(model, training, options.epochs, seed, reset)
            score = accuracy(model, test, reset)
            rate = 100 * count_energy(fold_norms(model, make=make), test[0]).rate
            runs.add(name, seed, score, rate, seconds)
        torch.manual_seed(seed)
        twin = network(spikeloom.SpikingLayer).ann_twin()
        seconds = train(twin, training, options.epochs, seed, lambda model: None)
        runs.add("ANN twin", seed, accuracy(twin, test, lambda model: None), None, seconds)
    for name in (*options.hosts, "ANN twin"):
        scores = [row[2] for row in runs.rows if row[0] == name]
        runs.notes.append(f"{name}: median {statistics.median(scores):.2f} %")
    print(runs)

    make, reset = host(options.hosts[-1])
    folded = fold_norms(model.eval(), make=make)
    proof = check_mfi(folded, test[0][:32])
    energy = count_energy(folded, test[0])
    print(f"\n{proof}\n\n{energy}\n\nFolded: {accuracy(folded, test, reset):.2f} % correct")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    export(folded, test[0], options.out)
    if options.out:
        for name, report in {"runs": runs, "mfi": proof, "energy": energy}.items():
            report.save(options.out / f"{name}.json")
        energy.plot("AC", options.out / "energy.png")


def export(model: SpikingMLP, images: Tensor, folder: Path | None) -> None:
    """NIR knows no permutation and no concatenation: token mixing becomes dense matrices.

    Norse's own importer runs branches too early, so the target is not the portable one;
    ``spikeloom.export.from_nir`` brings the file into any host.
    """
    from spikeloom.export import to_nir

    still = images.expand(model.steps, *images.shape)
    path = None if folder is None else folder / "digits.nir"
    graph, report = to_nir(model, still, target="nir", path=path, dense_token_mixing=True)
    print(f"\nNIR: {len(graph.nodes)} nodes;", *report.notes, sep="\n  ")


if __name__ == "__main__":
    main()
