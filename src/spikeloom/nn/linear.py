"""SpikeLinear: torch's linear layer, which adds the weights of the inputs that fired."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from spikeloom.nn.layer import SpikeFed
from spikeloom.nn.operation import Operation
from spikeloom.nn.product import LINEAR, product

__all__ = ["SpikeLinear"]


class SpikeLinear(SpikeFed, nn.Linear):
    r"""A linear layer whose input is spikes, at the cost of the spikes that there are.

    The output is that of :class:`torch.nn.Linear` within rounding,

    .. math::
        y_{bn} = b_n
        + a_b \left(\sum_{k:\,s_{bk} = 1} W_{nk} - \sum_{k:\,s_{bk} = -1} W_{nk}\right),

    for spikes :math:`x_{bk} = a_b\,s_{bk}` of 0 and 1, or of -1, 0 and 1, times an amplitude
    :math:`a_b` that may differ between rows, as between the steps of a few-spike train. The
    gradient of the weight adds rows of the output's gradient in the same manner. That of the input
    is the dense product, and is computed only if it is needed. Of the input only bits are kept
    for the backward pass.

    Each call looks at some rows of its input. If these are no spikes, or more of them fire than
    ``threshold`` allows, the call is :class:`torch.nn.Linear`'s own; so it is for a small product,
    another dtype than float32 and float64, another device than a CPU, under autocast, and while
    torch.func, a dispatch mode, a tracer or torch.export is active.

    An infinite or NaN weight reaches only the outputs of rows in which its input fired.

    Args:
        in_features: As for :class:`torch.nn.Linear`.
        out_features: As for :class:`torch.nn.Linear`.
        bias: As for :class:`torch.nn.Linear`.
        device: As for :class:`torch.nn.Linear`.
        dtype: As for :class:`torch.nn.Linear`.
        threshold: The share of inputs that fire up to which they are added one by one; 0 never
            does, 1 does so for all spikes. None has the break-even measured, once for each size in
            a process: some tenths of a second at the first input of spikes. Results of runs in
            which it came out differently may differ in their last digits; a number makes them
            equal.

    Raises:
        TypeError: If ``threshold`` is no number.
        ValueError: If ``threshold`` is outside of [0, 1].

    Shape:
        - Input: ``[*, in_features]``
        - Output: ``[*, out_features]``

    Example:
        >>> import torch, spikeloom
        >>> layer = spikeloom.nn.SpikeLinear(700, 256)
        >>> spikes = (torch.rand(100, 32, 700) < 0.05).float()  # [T, batch, inputs]
        >>> dense = torch.nn.functional.linear(spikes, layer.weight, layer.bias)
        >>> torch.allclose(layer(spikes), dense, atol=1e-5)
        True
    """

    dense_class = nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        threshold: float | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.threshold = threshold

    def forward(self, input: Tensor) -> Tensor:
        """The output, ``[*, out_features]``."""
        return product(LINEAR, input, self.weight, self.bias, self.threshold)

    def operation(self) -> Operation:
        """The product."""
        return LINEAR
