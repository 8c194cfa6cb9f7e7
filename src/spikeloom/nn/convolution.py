"""A convolution of spikes: a linear layer on the bits that each output sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from spikeloom.kernel import events
from spikeloom.kernel.events import Spikes
from spikeloom.nn.operation import Operation, Packed

__all__ = ["Convolution"]


@dataclass(frozen=True)
class Convolution(Operation):
    """A convolution with zeros around the image.

    Attributes:
        stride: Along each axis of the image, as all that follow.
        padding: Zeros on both sides.
        dilation: Distance of the taps.
        groups: Into how many groups the channels fall; events know a single one.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def fits(self, x: Tensor, weight: Tensor) -> bool:
        """Whether the input is a batch of images with as many channels as the weight."""
        rank = len(self.stride)
        if self.groups != 1 or not x.dim() == weight.dim() == rank + 2:
            return False
        return x.shape[1] == weight.shape[1] and all(
            size > 0 for size in self._outputs(x.shape, weight.shape)
        )

    def products(self, shape: torch.Size, weight: torch.Size) -> int:
        """Those of every output with every tap of every channel."""
        return shape[0] * math.prod(self._outputs(shape, weight)) * weight.numel()

    def lines(self, x: Tensor) -> Tensor:
        """An image of a channel as a row."""
        return x.reshape(x.shape[0] * x.shape[1], -1).contiguous()

    def packed(self, x: Tensor) -> Packed | None:
        """Images as rows of bits; all channels of a sample must have the same amplitude."""
        found = events.pack(self.lines(x))
        amplitude = None if found is None else found[0].amplitude
        if found is None or amplitude is None:
            return found
        spikes, count = found
        fires = (spikes.bits != 0).any(1).view(x.shape[:2])
        of_channels = torch.where(fires, amplitude.view(x.shape[:2]), 0.0)
        of_samples = of_channels.amax(1)
        if not torch.equal(of_channels, torch.where(fires, of_samples[:, None], 0.0)):
            return None
        return Spikes(spikes.inputs, x.dtype, spikes.bits, spikes.negative, of_samples), count

    def dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Torch's own."""
        convolve = {1: F.conv1d, 2: F.conv2d}[len(self.stride)]
        return convolve(x, weight, bias, *self._geometry(), self.groups)

    def dense_weight_gradient(self, x: Tensor, gy: Tensor, weight: torch.Size) -> Tensor:
        """Torch's own."""
        empty = gy.new_empty(()).expand(weight)
        return self._backward(x, gy, empty, (False, True, False))[1]

    def input_gradient(self, shape: torch.Size, gy: Tensor, weight: Tensor) -> Tensor:
        """Torch's own."""
        empty = gy.new_empty(()).expand(shape)
        return self._backward(empty, gy, weight, (True, False, False))[0]

    def bias_gradient(self, gy: Tensor) -> Tensor:
        """The sum over samples and images."""
        return gy.sum((0, *range(2, gy.dim())))

    def product(
        self, spikes: Spikes, shape: torch.Size, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """``[samples, outputs, *image]``."""
        sizes = self._outputs(shape, weight.shape)
        scale = spikes.amplitude
        scale = None if scale is None else scale.repeat_interleave(math.prod(sizes))
        bits, negative = self._seen(spikes, shape, weight.shape)
        table = weight.flatten(2).permute(2, 1, 0).reshape(-1, weight.shape[0]).contiguous()
        y = events.gather(bits, negative, table, scale=scale, start=bias)
        return _channels_first(y.view(shape[0], *sizes, weight.shape[0])).contiguous()

    def weight_gradient(
        self, spikes: Spikes, shape: torch.Size, gy: Tensor, weight: torch.Size
    ) -> Tensor:
        """``[outputs, channels, *taps]``."""
        taps = math.prod(weight[2:])
        bits, negative = (
            None if seen is None else events.transposed(seen, taps * weight[1])
            for seen in self._seen(spikes, shape, weight)
        )
        assert bits is not None
        if spikes.amplitude is not None:
            gy = gy * spikes.amplitude.view(-1, *(1,) * (gy.dim() - 1))
        table = _channels_last(gy).reshape(-1, weight[0]).contiguous()
        found = events.gather(bits, negative, table)
        return found.view(taps, weight[1], weight[0]).permute(2, 1, 0).contiguous().view(weight)

    def _seen(
        self, spikes: Spikes, shape: torch.Size, weight: torch.Size
    ) -> tuple[Tensor, Tensor | None]:
        """The bits that each output sees, and the negative ones among them."""
        samples, channels, *image = shape
        places = _places(tuple(image), tuple(weight[2:]), *self._geometry())

        def seen(bits: Tensor) -> Tensor:
            pixels = events.transposed(bits, spikes.inputs, samples)
            return events.unfolded(pixels, channels, places, spikes.inputs)

        return seen(spikes.bits), None if spikes.negative is None else seen(spikes.negative)

    def _geometry(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        return self.stride, self.padding, self.dilation

    def _outputs(self, shape: Sequence[int], weight: Sequence[int]) -> list[int]:
        """The sizes of the output's image."""
        sizes = zip(shape[2:], weight[2:], *self._geometry(), strict=True)
        return [
            (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
            for size, taps, stride, padding, dilation in sizes
        ]

    def _backward(
        self, x: Tensor, gy: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor, ...]:
        zeros = [0] * len(self.stride)
        geometry = (*map(list, self._geometry()), False, zeros, self.groups)
        found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
            gy, x, weight, None, *geometry, wanted
        )
        return found


def _channels_first(x: Tensor) -> Tensor:
    return x.movedim(-1, 1)


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1)


@lru_cache(maxsize=64)
def _places(
    image: tuple[int, ...],
    taps: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:
    """Which pixel each output sees at each tap, ``[outputs, taps]``; -1 beyond the image."""
    rank = len(image)
    on = torch.device("cpu")  # whatever the default device is
    pixel = torch.zeros((), dtype=torch.int64, device=on)
    inside = torch.ones((), dtype=torch.bool, device=on)
    for axis, size in enumerate(image):
        span = dilation[axis] * (taps[axis] - 1)
        first = torch.arange(-padding[axis], size + padding[axis] - span, stride[axis], device=on)
        at = first[:, None] + dilation[axis] * torch.arange(taps[axis], device=on)
        ones = [1] * (2 * rank)
        ones[axis], ones[rank + axis] = at.shape
        at = at.view(ones)
        pixel, inside = pixel * size + at, inside & (at >= 0) & (at < size)
    found = torch.where(inside, pixel, -1)
    return found.reshape(math.prod(found.shape[:rank]), -1).contiguous()
