"""Layers that several processes compress, each of them some; all processes get all results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spikeloom.compress.swap import Change
from spikeloom.ranks import exchanged, size
from spikeloom.rows import WeightLayer, outputs_first

__all__ = ["Done", "of_all", "owners_of"]

# What becomes of a layer, and its row of the report.
Done = tuple[Change, tuple[Any, ...]]


def owners_of(layers: Mapping[str, WeightLayer]) -> dict[str, int]:
    """The process that compresses each layer: the largest first, to whom has least to do so far.

    Args:
        layers: By name, the same on all processes.
    """
    widths = {name: outputs_first(m, m.weight)[0].numel() for name, m in layers.items()}
    work = {name: layer.weight.numel() * widths[name] ** 2 for name, layer in layers.items()}
    loads, owners = [0] * size(), {}
    for name in sorted(layers, key=work.__getitem__, reverse=True):
        owners[name] = loads.index(min(loads))
        loads[owners[name]] += work[name]
    return {name: owners[name] for name in layers}


def of_all(
    done: Mapping[str, Done], owners: Mapping[str, int], layers: Mapping[str, WeightLayer]
) -> dict[str, Done]:
    """What all processes have done, for the layers of this one.

    Args:
        done: What this process has done.
        owners: The process of each layer.
        layers: This process's own.
    """
    # The layer itself is not sent.
    sent = {
        name: (change.weight, dict(change.buffers), change.compressed_from, row)
        for name, (change, row) in done.items()
    }
    outcomes = {}
    for name, (weight, buffers, marks, row) in exchanged(sent, owners).items():
        layer, device = layers[name], layers[name].weight.device
        outcomes[name] = Change(layer, weight.to(device), _on(device, buffers), marks), row
    return outcomes


def _on(device: torch.device, buffers: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """Buffers on a device."""
    return {name: None if held is None else held.to(device) for name, held in buffers.items()}
