"""SpikeConv1d and SpikeConv2d: torch's convolutions, which add the weights of what fired."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from spikeloom.nn.convolution import Convolution
from spikeloom.nn.layer import SpikeFed
from spikeloom.nn.operation import Operation
from spikeloom.nn.product import product

__all__ = ["SpikeConv1d", "SpikeConv2d"]


class _SpikeConv(SpikeFed):
    """What the convolutions have in common; the class beside it is torch's."""

    stride: Any
    padding: Any
    dilation: Any
    groups: int
    kernel_size: Any
    padding_mode: Any

    def __init__(self, *sizes: Any, threshold: float | None = None, **settings: Any) -> None:
        super().__init__(*sizes, **settings)
        self.threshold = threshold

    def operation(self) -> Operation | None:
        """The convolution; None if events know none like it."""
        padding = self.padding
        if padding == "valid":
            padding = (0,) * len(self.stride)
        elif padding == "same":
            spans = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            if any(span % 2 for span in spans):
                return None
            padding = tuple(span // 2 for span in spans)
        return Convolution(self.stride, padding, self.dilation, self.groups)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        operation = self.operation()
        # torch.fx traces with a stand-in, which is no tensor and has no shape.
        same = isinstance(input, Tensor) and input.dim() == weight.dim()
        if operation is None or self.padding_mode != "zeros" or not same:
            return super()._conv_forward(input, weight, bias)  # type: ignore[misc]  # torch has it
        return product(operation, input, weight, bias, self.threshold)


class SpikeConv1d(_SpikeConv, nn.Conv1d):
    """A convolution along one axis; see :class:`SpikeConv2d`.

    Args:
        *sizes: As for :class:`torch.nn.Conv1d`.
        threshold: As for :class:`~spikeloom.nn.SpikeLinear`.
        **settings: As for :class:`torch.nn.Conv1d`.

    Shape:
        - Input: ``[batch, in_channels, length]``
        - Output: ``[batch, out_channels, length]``

    Example:
        >>> import torch, spikeloom
        >>> layer = spikeloom.nn.SpikeConv1d(2, 8, 3, padding="same")
        >>> layer((torch.rand(4, 2, 20) < 0.1).float()).shape
        torch.Size([4, 8, 20])
    """

    dense_class = nn.Conv1d


class SpikeConv2d(_SpikeConv, nn.Conv2d):
    """A convolution whose input is spikes, at the cost of the spikes that there are.

    Its output and gradients are those of :class:`torch.nn.Conv2d` within rounding. Each output adds
    the weights of the spikes that it sees, tap by tap and channel by channel; the gradient of the
    weight adds the output's gradients where these fired. Spikes are 0 and 1, or -1, 0 and 1, times
    an amplitude that may differ between samples. Of the input only bits are kept for the backward
    pass.

    torch's convolutions are quick, so this pays for many channels and few spikes: the tutorial has
    figures. As with :class:`~spikeloom.nn.SpikeLinear`, each call decides by the density of its
    input. Groups, other padding than by zeros, an even kernel with ``padding="same"``, a single
    image without a batch, and graphs of ``torch.compile`` are left to torch.

    Args:
        *sizes: As for :class:`torch.nn.Conv2d`.
        threshold: As for :class:`~spikeloom.nn.SpikeLinear`.
        **settings: As for :class:`torch.nn.Conv2d`.

    Raises:
        TypeError: If ``threshold`` is no number.
        ValueError: If ``threshold`` is outside of [0, 1].

    Shape:
        - Input: ``[batch, in_channels, height, width]``
        - Output: ``[batch, out_channels, height, width]``

    Example:
        >>> import torch, spikeloom
        >>> layer = spikeloom.nn.SpikeConv2d(64, 32, 3, padding=1)
        >>> layer((torch.rand(4, 64, 16, 16) < 0.05).float()).shape
        torch.Size([4, 32, 16, 16])
    """

    dense_class = nn.Conv2d
