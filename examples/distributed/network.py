"""The network that all examples train on handwritten digits: 64-128-10, time constants learned."""

import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from examples.digits.data import CLASSES, PIXELS, decoded, load, over_time
from spikeloom.plugins import spikingjelly

HIDDEN = 128
BATCH = 64  # of each process
LEARNING_RATE = 3e-3


class Classifier(nn.Module):
    """Class scores of images; every batch begins at rest."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(PIXELS, HIDDEN),
            spikingjelly.ParametricLIFNode(step_mode="m"),
            nn.Linear(HIDDEN, CLASSES),
            spikingjelly.ParametricLIFNode(step_mode="m"),
        )

    def forward(self, images: Tensor) -> Tensor:
        functional.reset_net(self.layers)
        return decoded(self.layers(over_time(images)))


def datasets() -> tuple[TensorDataset, TensorDataset]:
    """Images and labels to train on, and to test on."""
    digits = load()
    return (
        TensorDataset(digits.train_images, digits.train_labels),
        TensorDataset(digits.test_images, digits.test_labels),
    )


def accuracy(model: nn.Module, test: TensorDataset) -> float:
    """The share of test images whose class fires most often."""
    images, labels = test.tensors
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()
