"""Scikit-learn's handwritten digits as input currents."""

from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

STEPS = 8
PIXELS, CLASSES = 64, 10

# The input current of a white pixel.
WHITE = 2.0


class Digits(NamedTuple):
    """Images ``[n, 64]`` as currents and their classes ``[n]``, stratified."""

    train_images: Tensor
    test_images: Tensor
    train_labels: Tensor
    test_labels: Tensor


def load() -> Digits:
    """1347 images to train on, 450 to test on."""
    images, labels = load_digits(return_X_y=True)
    currents = WHITE * torch.tensor(images, dtype=torch.float32) / 16
    parts = train_test_split(
        currents, torch.tensor(labels), test_size=0.25, stratify=labels, random_state=0
    )
    return Digits(*parts)


def over_time(images: Tensor) -> Tensor:
    """The same current at every step: ``[n, 64]`` becomes ``[T, n, 64]``."""
    return images.expand(STEPS, *images.shape)


def decoded(spikes: Tensor) -> Tensor:
    """Class scores of spikes ``[T, n, 10]``: how often each class fires."""
    return spikes.sum(0)
