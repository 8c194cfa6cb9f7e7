"""The same training in every framework."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from .data import CLASSES, PIXELS, Digits, decoded, over_time
from .hosts import Host, Way

HIDDEN = 256
BATCH = 64
LEARNING_RATE = 3e-3

Step = Callable[[Tensor, Tensor], None]


def build(way: Way) -> nn.Module:
    """The network 64-256-10, with neurons after both layers."""
    torch.manual_seed(0)
    return way.network(
        nn.Linear(PIXELS, HIDDEN), way.neuron(), nn.Linear(HIDDEN, CLASSES), way.neuron()
    )


def training_step(way: Way, network: nn.Module) -> Step:
    """Forward, backward and update on one batch."""
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)

    def step(images: Tensor, labels: Tensor) -> None:
        spikes = way.run(network, over_time(images))
        loss = F.cross_entropy(decoded(spikes), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def train(host: Host, digits: Digits, epochs: int) -> tuple[nn.Module, list[float]]:
    """Train the network with spikeloom's neuron; return it and its test accuracy by epoch."""
    network = build(host.ours)
    step = training_step(host.ours, network)
    curve = []
    with tqdm(range(epochs), desc=f"{host.name:<12}", unit="epoch") as bar:
        for _ in bar:
            for batch in torch.randperm(len(digits.train_images)).split(BATCH):
                step(digits.train_images[batch], digits.train_labels[batch])
            curve.append(accuracy(host.ours, network, digits))
            bar.set_postfix_str(f"test accuracy {curve[-1]:.1%}")
    return network, curve


def accuracy(way: Way, network: nn.Module, digits: Digits) -> float:
    """The share of test images whose class fires most often."""
    with torch.no_grad():
        scores = decoded(way.run(network, over_time(digits.test_images)))
    return (scores.argmax(1) == digits.test_labels).float().mean().item()
