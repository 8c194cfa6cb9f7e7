"""Signed and graded spikes in a few bits, for SpikingJelly's memory optimisation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from spikingjelly.activation_based.memopt import SpikeCompressor
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["SignedSpikeCompressor"]


class Packed(NamedTuple):
    """Codes of a tensor, several to a byte, and what restores it."""

    codes: Tensor
    dtype: torch.dtype
    shape: torch.Size


class SignedSpikeCompressor(SpikeCompressor):
    r"""Stores spikes that are whole multiples of one amplitude in 2, 4 or 8 bits each.

    .. math:: x = a\,k,\qquad k \in \{-2^{b-1}, \ldots, 2^{b-1} - 1\}

    SpikingJelly's own compressors keep a spike's presence only: -1 or 2 come back as 1, 0 or 255.
    ``optimize_memory`` may choose one of them after a first batch that happens to be all 0 and 1;
    with signed or graded spikes say ``compress=False`` there and wrap the modules with
    ``checkpoint_module(..., compressor=SignedSpikeCompressor())`` instead.

    Args:
        bits: 2 for ternary spikes, 4 or 8 for graded ones.
        amplitude: The height of a spike of one unit, positive.

    Raises:
        ValueError: If an argument is out of range; when compressing, if a value is not such a
            multiple. That check waits for the device.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.spikingjelly import SignedSpikeCompressor
        >>> compressor = SignedSpikeCompressor(bits=2)
        >>> packed = compressor.compress(torch.tensor([-1.0, 0.0, 1.0, 1.0, -1.0]))
        >>> packed.codes.numel()
        2
        >>> compressor.decompress(packed)
        tensor([-1.,  0.,  1.,  1., -1.])
    """

    def __init__(self, bits: int = 2, amplitude: float = 1.0) -> None:
        if bits not in (2, 4, 8):
            raise ValueError(f"bits: must be 2, 4 or 8, got {bits!r}")
        if not isinstance(amplitude, (int, float)) or not 0 < amplitude < float("inf"):
            raise ValueError(f"amplitude: must be a positive finite number, got {amplitude!r}")
        self.bits = bits
        self.amplitude = float(amplitude)
        self._lowest = -(2 ** (bits - 1))

    def compress(self, x: Tensor) -> Packed:
        """The codes of a spike tensor, several to a byte."""
        levels = torch.round(x / self.amplitude)
        fits = (levels >= self._lowest) & (levels < -self._lowest)
        if not bool((fits & (levels * self.amplitude == x)).all()):
            raise ValueError(
                f"x: {self.bits}-bit spikes are multiples {self._lowest} to {-self._lowest - 1} of "
                f"amplitude={self.amplitude}, and other values occur; use more bits, the right "
                f"amplitude, or no compression"
            )
        # Counted from the lowest level, so that no code is negative.
        codes = (levels - self._lowest).to(torch.uint8).reshape(-1)
        per_byte = 8 // self.bits
        groups = pad(codes, (0, -codes.numel() % per_byte)).reshape(-1, per_byte)
        packed = (groups << self._shifts(x.device)).sum(1, dtype=torch.int16)
        return Packed(packed.to(torch.uint8), x.dtype, x.shape)

    def decompress(self, packed: Packed) -> Tensor:
        """The spike tensor, equal to the last bit."""
        codes, dtype, shape = packed
        groups = (codes[:, None] >> self._shifts(codes.device)) & (2**self.bits - 1)
        levels = groups.reshape(-1)[: shape.numel()].to(dtype) + self._lowest
        return (levels * self.amplitude).reshape(shape)

    def _shifts(self, device: torch.device) -> Tensor:
        return torch.arange(0, 8, self.bits, dtype=torch.uint8, device=device)
