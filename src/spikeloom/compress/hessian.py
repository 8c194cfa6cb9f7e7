r"""The second moment of what a layer's weights are multiplied with.

A weight error of a layer moves the membrane potentials behind it by the error times the layer's
input, filtered in time as those membranes filter it. The mean square of that movement is a
quadratic form of the error, and its matrix is the layer's Hessian:

.. math::
    H = \frac{2}{m} \sum_{n} \sum_{t} y_n[t]\, y_n[t]^T,\qquad y_n[t] = \lambda y_n[t-1] + s_n[t]

Source: Shi, Li, Ward-Cherrier, arXiv 2506.03996; with the identity as filter it is the Hessian of
Optimal Brain Compression (Frantar, Alistarh, arXiv 2208.11580).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from spikeloom.compress.patches import patches
from spikeloom.kernel.call import run
from spikeloom.kernel.neuron import kind
from spikeloom.neurons import Trace
from spikeloom.rows import (
    KINDS,
    WeightLayer,
    groups_of,
    inputs_of,
    is_linear,
    is_transposed,
    is_weight_layer,
    outputs_first,
)

__all__ = ["SecondMoment", "as_float", "check_finite", "layer_hessian"]

# Unfolded convolution inputs are taken in pieces of this many numbers.
CHUNK = 1 << 22
# Width of a strip of columns of the Hessian.
STRIP = 256


def layer_hessian(spikes: Tensor, layer: nn.Module, trace: Trace) -> Tensor:
    r"""The Hessian of one layer for one set of inputs.

    .. math:: H = \frac{2}{m} \sum_n \sum_t y_n[t]\, y_n[t]^T

    over samples n (for a convolution: samples and output positions, m of them) and steps t, y being
    the traces of the spikes. It is not damped, not divided by T, and no gain enters.

    Args:
        spikes: The layer's input, shape ``[T, batch, ...]``; spikes, counts or analog values.
        layer: A Linear, a convolution or a transposed one, of torch or of a host; or transformers'
            Conv1D.
        trace: The filter of the neuron behind the layer; ``Trace(0)`` is the identity.

    Returns:
        The Hessian in float64, shape ``[d, d]`` with d inputs of an output row in the order of
        ``weight.flatten(1)``; ``[groups, d, d]`` for a grouped convolution. A transposed
        convolution and a Conv1D have their inputs in front: the order is that of
        ``weight.transpose(0, 1).flatten(1)``, within each group.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the shape does not fit the layer, the trace differs between neurons, or the
            spikes are empty, NaN or infinite.

    Example:
        >>> import torch
        >>> from spikeloom import compress, neurons
        >>> spikes = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # T=2, one sample, two inputs
        >>> compress.layer_hessian(spikes, torch.nn.Linear(2, 3), neurons.Trace(0.5))
        tensor([[2.5000, 1.0000],
                [1.0000, 2.0000]], dtype=torch.float64)
    """
    if not isinstance(spikes, Tensor):
        raise TypeError(f"spikes: must be a tensor [T, batch, ...], got {type(spikes).__name__}")
    if not isinstance(trace, Trace):
        raise TypeError(f"trace: must be a neurons.Trace, got {trace!r}; Trace(0) is the identity")
    if any(kind(value) not in ("number", "scalar") for value in trace.params.values()):
        raise ValueError(f"trace: must be the same for all neurons, got {trace}")
    moment = SecondMoment(layer)
    if spikes.dim() < 3:
        raise ValueError(f"spikes: must have shape [T, batch, ...], got {tuple(spikes.shape)}")
    if not spikes.numel():
        raise ValueError(f"spikes: there is not one sample in shape {tuple(spikes.shape)}")
    check_finite(spikes)
    with torch.no_grad():
        filtered, _ = run(trace, as_float(spikes))
        moment.add(filtered.flatten(0, 1), steps=len(spikes))
    return moment.hessian()


def as_float(spikes: Tensor) -> Tensor:
    """Spikes as float32, or float64 if they are."""
    return spikes if spikes.dtype == torch.float64 else spikes.float()


def check_finite(inputs: Tensor) -> None:
    """Raise if a layer's input holds NaN or infinity."""
    if not bool(torch.isfinite(inputs).all()):
        raise ValueError("inputs: the layer's input is NaN or infinite; check model and data")


class SecondMoment:
    """A running sum of outer products of a layer's inputs.

    Products of at most a few million numbers are taken in the dtype of the input; their sum is
    kept in float64.

    Args:
        layer: A layer of a kind that is compressed.

    Raises:
        TypeError: If it is another module.

    Attributes:
        total: Shape ``[groups, d, d]``; only the lower triangle counts.
        samples: How many samples (times output positions) it holds.
    """

    def __init__(self, layer: nn.Module) -> None:
        if not is_weight_layer(layer):
            raise TypeError(f"layer: must be a {KINDS} module, got {type(layer).__name__}")
        self.layer: WeightLayer = layer
        self.groups = groups_of(layer)
        width = outputs_first(layer, layer.weight)[0].numel()
        self.total = torch.zeros(
            self.groups, width, width, dtype=torch.float64, device=layer.weight.device
        )
        self.samples = 0.0

    def add(self, inputs: Tensor, steps: float) -> None:
        """Add what the layer saw in one call.

        Args:
            inputs: Shape ``[n, ...]`` as the layer receives it, time and batch in one axis.
            steps: How many steps of one sample are among the n; infinite for later steps of
                samples that have been counted.

        Raises:
            ValueError: If the shape does not fit the layer.
        """
        for rows in self._rows(inputs):
            # The matrix is symmetric: the part above the diagonal strips is not computed.
            for start in range(0, rows.shape[2], STRIP):
                strip = slice(start, start + STRIP)
                product = rows[:, :, start:].mT @ rows[:, :, strip]
                self.total[:, start:, strip] += product.double()
            self.samples += rows.shape[1] / steps

    def _rows(self, inputs: Tensor) -> Iterator[Tensor]:
        """Pieces ``[groups, rows, d]`` of the matrix that the weights are multiplied with."""
        layer, width = self.layer, inputs_of(self.layer)
        if is_linear(layer):
            _check_shape(inputs, inputs.dim(), -1, width)
            rows = inputs.reshape(1, -1, width)
            yield from rows.split(max(1, CHUNK // width), dim=1)
            return
        _check_shape(inputs, layer.weight.dim(), 1, width)
        numbers = inputs[0].numel() * layer.weight[0, 0].numel()
        if is_transposed(layer):
            numbers *= math.prod(layer.stride)
        for piece in inputs.split(max(1, CHUNK // max(1, numbers))):
            found = patches(layer, piece).unflatten(1, (self.groups, -1))
            yield found.permute(1, 0, 3, 2).flatten(1, 2)

    def hessian(self) -> Tensor:
        """The mean, times two: ``[d, d]``, or ``[groups, d, d]``."""
        mean = self.stack()
        return mean if self.groups > 1 else mean[0]

    def stack(self) -> Tensor:
        """The mean, times two, always ``[groups, d, d]``."""
        lower = self.total.tril() * (2 / self.samples)
        return lower + lower.tril(-1).mT


def _check_shape(inputs: Tensor, dims: int, axis: int, size: int) -> None:
    if inputs.dim() != dims or inputs.shape[axis] != size:
        raise ValueError(
            f"inputs: the layer takes {size} inputs on axis {axis} of {dims} axes, "
            f"got shape {tuple(inputs.shape)}"
        )
