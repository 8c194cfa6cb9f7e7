"""The end of compression: removed weights and grids become permanent."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from spikeloom.compress.buffers import BUFFERS, hold_zeros, release
from spikeloom.grid import bits_of, has_grid, is_on_grid
from spikeloom.hosted import copied, to_rest
from spikeloom.report import Report

__all__ = ["finish"]


def finish(model: nn.Module) -> nn.Module:
    """A copy of a compressed network whose removed weights and grids are permanent.

    Every layer that :func:`prune` or :func:`quantize` changed becomes a plain one: nothing runs
    before its forward pass or before it is saved, and its weight no longer trains, so that zeros
    stay zeros and codes stay true. Mask, codes and scale stay on it as buffers. They are saved with
    the network, go into a NIR file's metadata, and tell
    :func:`~spikeloom.verify.count_energy` which weights exist and how wide they are.

    A finished network computes what it did before, to the last bit. To train it further, use the
    network that it was made from; :func:`load_compressed` reads the states of both.

    Args:
        model: A compressed network; it is not changed.

    Returns:
        The copy, its neurons at rest. Its ``report`` has a row for each such layer: its weights,
        how many of them are zero, and how many bits hold each of its codes.

    Raises:
        TypeError: If the model is no module.
        ValueError: If no layer is compressed, or the weight of one has left its grid, as training
            moves it.

    Example:
        >>> import torch
        >>> from spikeloom import SpikingLayer, compress, neurons
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4), SpikingLayer(neurons.LIF())).eval()
        >>> stats = compress.calibrate(net, [torch.rand(10, 16, 8).round()])
        >>> _ = compress.prune(net, stats, sparsity=0.75)
        >>> _ = compress.quantize(net, stats, bits=4)
        >>> print(compress.finish(net).report)
        Finished layers
        layer  weights  zeros  bits
        -----  -------  -----  ----
        0           32     24     4
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: must be an nn.Module, got {type(model).__name__}")
    finished: Any = copied("model", model)
    to_rest(finished)
    report = Report("Finished layers", ("layer", "weights", "zeros", "bits"))
    for name, layer in finished.named_modules():
        if any(layer._buffers.get(buffer) is not None for buffer in BUFFERS):
            _finish_layer(name, layer)
            weight = layer.weight
            report.add(name, weight.numel(), int((weight == 0).sum()), bits_of(layer))
    if not report.rows:
        raise ValueError(
            "model: no layer of it is compressed; call compress.prune or compress.quantize first"
        )
    finished.report = report
    return finished


def _finish_layer(name: str, layer: Any) -> None:
    hold_zeros(layer, ())
    with torch.no_grad():
        if has_grid(layer) and not is_on_grid(layer, layer.weight, layer.weight_codes):
            raise ValueError(
                f"model: the weight of {name!r} has changed since it was quantised, and is no "
                "longer scale times code; calibrate and quantise again, then finish"
            )
    layer.weight.requires_grad_(False)
    release(layer)
