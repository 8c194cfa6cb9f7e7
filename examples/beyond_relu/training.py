"""Supervised training, and how well a network or its conversion answers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .methods import Method

__all__ = ["Data", "Score", "medians", "score", "scores", "train"]


class Data(NamedTuple):
    """Pictures and their classes, to train and calibrate on, and to test on."""

    images: Tensor
    unseen: Tensor
    labels: Tensor
    unseen_labels: Tensor


class Score(NamedTuple):
    """Accuracy in percent, and squared logit error relative to the ANN's mean square."""

    accuracy: float
    error: float


def train(make: Callable[[], nn.Module], data: Data, seed: int, epochs: int) -> nn.Module:
    torch.manual_seed(seed)
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batches = -(-len(data.images) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    for _ in range(epochs):
        for index in torch.randperm(len(data.images)).split(64):
            loss = F.cross_entropy(model(data.images[index]), data.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def score(logits: Tensor, exact: Tensor, labels: Tensor) -> Score:
    error = (logits - exact).square().mean() / exact.square().mean()
    return Score(100 * float((logits.argmax(1) == labels).float().mean()), float(error))


@torch.no_grad()
def scores(
    model: nn.Module,
    data: Data,
    method: Method,
    steps: Sequence[int],
    calibrate: int | None = None,
) -> list[Score]:
    """A conversion's answers to unseen pictures, after each number of steps."""
    exact = model(data.unseen)
    answers = method(model, data.images[:calibrate], data.unseen, steps)
    return [score(logits, exact, data.unseen_labels) for logits in answers]


def medians(runs: Sequence[Sequence[Score]]) -> list[Score]:
    """Over seeds, for each number of steps."""
    return [
        Score(*(statistics.median(values) for values in zip(*same, strict=True)))
        for same in zip(*runs, strict=True)
    ]
