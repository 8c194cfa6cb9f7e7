"""What a network is still worth at each degree of compression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from spikeloom.compress.compression import prune, quantize
from spikeloom.compress.statistics import Statistics
from spikeloom.hosted import copied
from spikeloom.sweep import Sweep

__all__ = ["Sweep", "sweep_bits", "sweep_sparsity"]


def sweep_sparsity(
    model: nn.Module,
    stats: Statistics,
    evaluate: Callable[[nn.Module], float],
    sparsities: Sequence[float] = (0.5, 0.75, 0.9, 0.95, 0.97),
    methods: Sequence[str] = ("osbc", "obs", "magnitude"),
    **options: Any,
) -> Sweep:
    """Prune copies of a network to several sparsities and evaluate each.

    Args:
        model: The network that was calibrated; it is not changed.
        stats: From :func:`calibrate`.
        evaluate: Scores a network, for example its accuracy; called without gradients.
        sparsities: Shares of weights to remove.
        methods: As for :func:`prune`.
        options: Further arguments of :func:`prune`.

    Returns:
        A report with a row for each method and sparsity; ``plot()`` draws the curves.
    """
    report = Sweep("Pruned copies", ("method", "sparsity", "score"))
    pairs = [(method, sparsity) for method in methods for sparsity in sparsities]
    for method, sparsity in tqdm(pairs, desc="sweep", disable=None):
        candidate = copied("model", model)
        prune(candidate, stats, sparsity, method, **options)
        with torch.no_grad():
            report.add(method, sparsity, evaluate(candidate))
    return report


def sweep_bits(
    model: nn.Module,
    stats: Statistics,
    evaluate: Callable[[nn.Module], float],
    bits: Sequence[int] = (4, 3, 2),
    methods: Sequence[str] = ("osbc", "obc", "rtn"),
) -> Sweep:
    """Quantise copies of a network to several widths and evaluate each.

    Args:
        model: The network that was calibrated; it is not changed.
        stats: From :func:`calibrate`.
        evaluate: Scores a network, for example its accuracy; called without gradients.
        bits: Widths of a code.
        methods: As for :func:`quantize`.

    Returns:
        A report with a row for each method and width; ``plot()`` draws the curves.
    """
    report = Sweep("Quantised copies", ("method", "bits", "score"))
    for method, width in tqdm([(m, b) for m in methods for b in bits], desc="sweep", disable=None):
        candidate = copied("model", model)
        quantize(candidate, stats, width, method)
        with torch.no_grad():
            report.add(method, width, evaluate(candidate))
    return report
