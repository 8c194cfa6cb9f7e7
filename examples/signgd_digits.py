"""Convert trained networks beyond ReLU to spikes with signGD, without retraining.

    python examples/signgd_digits.py                        # four networks, one seed, minutes
    python examples/signgd_digits.py --seeds 0 1 2 --plot signgd.png
    python examples/signgd_digits.py --net mixer --steps 8 16

8x8 digits (scikit-learn), 1347 to train and calibrate on, 450 to test on. Three convolutional
networks with max-pooling (GELU, LeakyReLU, ReLU) and an MLP-Mixer with LayerNorm and GELU are
trained as usual and converted:

    fitted       spikeloom: reach and schedule fitted to the calibration data for each T
    published    the published chains of nodes, scales and schedule (0.15 * 0.95**t)
    rate coding  SpikingJelly's RateCodingRecipe (99.9 %), which knows ReLU only

Test accuracy in percent, median over seeds, and the squared logit error relative to the ANN's.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from spikeloom import convert
from spikeloom.files import whole_file
from spikeloom.neurons import Exponential
from spikeloom.report import Report

# Train images, test images, train labels, test labels.
Data = list[Tensor]
# Accuracy in percent and relative logit error.
Score = tuple[float, float]


def load(seed: int) -> Data:
    """Images [n, 1, 8, 8] in [0, 1] and their classes."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return train_test_split(
        pixels, torch.tensor(labels), test_size=450, stratify=labels, random_state=seed
    )


# --- Networks ---------------------------------------------------------------------------------


def cnn(activation: Callable[[], nn.Module]) -> nn.Module:
    def stage(channels: int, out: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels, out, 3, padding=1)
        return [convolution, nn.BatchNorm2d(out), activation(), nn.MaxPool2d(2)]

    head = [nn.Flatten(), nn.Linear(128, 64), activation(), nn.Linear(64, 10)]
    return nn.Sequential(*stage(1, 16), *stage(16, 32), *head)


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class MixerBlock(nn.Module):
    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.over_tokens, self.over_channels = mlp(tokens), mlp(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.over_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.over_channels(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, channels, 2, stride=2)
        self.blocks = nn.Sequential(MixerBlock(16, channels), MixerBlock(16, channels))
        self.norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(tokens)).mean(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "gelu": lambda: cnn(nn.GELU),
    "leaky": lambda: cnn(lambda: nn.LeakyReLU(0.1)),
    "relu": lambda: cnn(nn.ReLU),
    "mixer": Mixer,
}


def train(name: str, data: Data, seed: int, epochs: int) -> nn.Module:
    images, _, labels, _ = data
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batches = -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(model(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


# --- Conversions ------------------------------------------------------------------------------


def fitted(model: nn.Module, data: Data, steps: list[int]) -> Iterator[Tensor]:
    for count in steps:
        yield convert.SignGD(count).apply(model, data[0])(data[1])


def published(model: nn.Module, data: Data, steps: list[int]) -> Iterator[Tensor]:
    method = convert.SignGD(max(steps), Exponential(0.15, 0.95), decompose=True, scale="published")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of values beyond reach: that is the point
        yield from method.apply(model, data[0])(data[1], at=steps)


def rate_coding(model: nn.Module, data: Data, steps: list[int]) -> Iterator[Tensor]:
    from spikingjelly.activation_based import ann2snn, functional

    batches = [(data[0], data[2])]
    snn = ann2snn.FXConverter(ann2snn.RateCodingRecipe(batches, mode="99.9%")).convert(model)
    functional.set_step_mode(snn, "s")
    total = torch.zeros(())
    for t in range(1, max(steps) + 1):
        total = total + snn(data[1])
        if t in steps:
            yield total / t
    functional.reset_net(snn)


METHODS = {"fitted": fitted, "published": published, "rate coding": rate_coding}


def score(logits: Tensor, exact: Tensor, labels: Tensor) -> Score:
    error = (logits - exact).square().mean() / exact.square().mean()
    return 100 * float((logits.argmax(1) == labels).float().mean()), float(error)


@torch.no_grad()
def scores(model: nn.Module, data: Data, method: str, steps: list[int]) -> list[Score]:
    exact = model(data[1])
    return [score(logits, exact, data[3]) for logits in METHODS[method](model, data, steps)]


# --- What came of it --------------------------------------------------------------------------


def medians(runs: list[list[Score]]) -> list[Score]:
    """Over seeds, for each number of steps."""
    return [
        (statistics.median(a for a, _ in same), statistics.median(e for _, e in same))
        for same in zip(*runs, strict=True)
    ]


def plot(report: Report, steps: list[int], path: Path) -> None:
    """Accuracy against T, a picture for each network."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(report.column("network")))
    figure = Figure(figsize=(3.2 * len(names), 3.0), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for network, method, ann, *values in report.rows:
            if network == name:
                axes.plot(steps, values[: len(steps)], marker="o", label=method)
                axes.axhline(ann, color="0.7", linewidth=1)
        axes.set(title=name, xlabel="steps T", xscale="log", ylim=(0, 102))
        axes.set_xticks(steps, [str(t) for t in steps])
        axes.minorticks_off()
        axes.legend(loc="lower right")
    figure.axes[0].set_ylabel("test accuracy, %")
    with whole_file(path) as temporary:
        figure.savefig(temporary)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--steps", nargs="+", type=int, default=[4, 8, 16, 32])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--plot", type=Path, help="save accuracy against T as a picture")
    args = parser.parse_args()
    steps = sorted(args.steps)
    columns = ("network", "method", "ANN", *(f"T={t}" for t in steps))
    report = Report(
        f"Test accuracy, %, median of seeds {args.seeds}",
        (*columns, *(f"error T={t}" for t in steps)),
    )
    for name in args.net:
        data = [load(seed) for seed in args.seeds]
        models = [
            train(name, part, seed, args.epochs)
            for part, seed in zip(data, args.seeds, strict=True)
        ]
        pairs = list(zip(models, data, strict=True))
        with torch.no_grad():
            exact = [score(model(part[1]), model(part[1]), part[3])[0] for model, part in pairs]
        for method in METHODS:
            if method == "rate coding" and name != "relu":
                continue
            found = medians([scores(model, part, method, steps) for model, part in pairs])
            accuracies, errors = zip(*found, strict=True)
            report.add(name, method, statistics.median(exact), *accuracies, *errors)
    print(report)
    if args.plot:
        plot(report, steps, args.plot)


if __name__ == "__main__":
    main()
