"""From an image to the first spikes, and from one stage to the next."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikeloom.hosted import output_of
from spikeloom.models.spiking_mlp.norms import StepScale
from spikeloom.models.spiking_mlp.parts import Parts, each_step, join, thirds
from spikeloom.models.spiking_mlp.sizes import Size

__all__ = ["PatchEmbedding", "PatchEncoding", "PatchMerging"]


class PatchEmbedding(nn.Module):
    r"""The first layer: a patch of the image becomes a current, the only layer with a real input.

    .. math:: h = \mathrm{BN}(\mathrm{Conv}_{p \times p, \text{stride } p}(x)),\qquad
        s = \mathrm{LIF}(h)

    An image that is the same at every step is encoded once.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the patch.
        patch: Height and width of a patch.
        parts: Makes neurons and norms; None takes the paper's.

    Shape:
        - Input: ``[T, B, C_in, H, W]``
        - Output: current and spikes, ``[T, B, C_out, H / p, W / p]`` each
    """

    def __init__(
        self, in_channels: int, out_channels: int, patch: Size, parts: Parts | None = None
    ) -> None:
        super().__init__()
        parts = parts or Parts()
        self.weight = nn.Conv2d(in_channels, out_channels, patch, patch, bias=False)
        self.norm = nn.Sequential(*parts.norm(nn.BatchNorm2d(out_channels)))
        self.neuron_out = parts.spiking()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The embedding's current and its spikes."""
        frames = _distinct_steps(x)
        steps, distinct = x.shape[0], frames.shape[0]
        h = self.weight(frames.flatten(0, 1)).contiguous(memory_format=torch.channels_last)
        # Statistics and per-step factors see every step, however often it was computed.
        if self.training or any(isinstance(norm, StepScale) for norm in self.norm):
            h, distinct = h.repeat(steps // distinct, 1, 1, 1), steps
        h = self.norm(h).unflatten(0, (distinct, x.shape[1])).expand(steps, -1, -1, -1, -1)
        return h, output_of(self.neuron_out(h))


class PatchEncoding(nn.Module):
    r"""Spiking patch encoding: halves the map and doubles the channels, with spikes inside.

    Three groups of :math:`k = C_\mathrm{out}/3` channels, each fed by a strided 3x3 convolution of
    the input and by the spikes of the group before:

    .. math::
        n_1 &= a(x),\qquad n_2 = b(x) + d(\mathrm{LIF}(n_1)) \\
        n_3 &= c(x) + n_1 + e(\mathrm{LIF}(n_2)) \\
        h &= [n_1, n_2, n_3],\qquad s = [\mathrm{LIF}(n_1), \mathrm{LIF}(n_2), \mathrm{LIF}(n_3)]

    a, b, c share their input and are one convolution here; each neuron runs once.

    Args:
        in_channels: Channels of the input spikes.
        out_channels: Channels of the output, divisible by 3.
        parts: Makes neurons and norms; None takes the paper's.

    Shape:
        - Input: ``[T, B, C_in, H, W]``
        - Output: current and spikes, ``[T, B, C_out, H / 2, W / 2]`` each

    Raises:
        ValueError: If the output channels do not divide by 3.
    """

    def __init__(self, in_channels: int, out_channels: int, parts: Parts | None = None) -> None:
        super().__init__()
        if out_channels % 3:
            raise ValueError(
                f"PatchEncoding: out_channels must divide by 3 (three groups), got {out_channels}; "
                f"choose a dim that divides by 3, or patch_encoding='conv'"
            )
        parts = parts or Parts()
        group = out_channels // 3
        strided = nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False)
        self.groups = parts.convolution(strided, groups=3)
        self.link_1 = parts.convolution(nn.Conv2d(group, group, 3, 1, 1, bias=False))
        self.link_2 = parts.convolution(nn.Conv2d(group, group, 3, 1, 1, bias=False))
        self.neuron_1 = parts.spiking()
        self.neuron_2 = parts.spiking()
        self.neuron_3 = parts.spiking()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The encoding's current and its spikes."""
        n1, n2, n3 = thirds(each_step(self.groups, x))
        s1 = output_of(self.neuron_1(n1))
        n2 = n2 + each_step(self.link_1, s1)
        s2 = output_of(self.neuron_2(n2))
        n3 = n3 + n1 + each_step(self.link_2, s2)
        s3 = output_of(self.neuron_3(n3))
        return join((n1, n2, n3)), join((s1, s2, s3))


class PatchMerging(nn.Module):
    """The encoding without spikes inside: a strided 2x2 convolution, batch norm, neuron.

    Args:
        in_channels: Channels of the input spikes.
        out_channels: Channels of the output.
        parts: Makes neurons and norms; None takes the paper's.

    Shape:
        - Input: ``[T, B, C_in, H, W]``
        - Output: current and spikes, ``[T, B, C_out, H / 2, W / 2]`` each
    """

    def __init__(self, in_channels: int, out_channels: int, parts: Parts | None = None) -> None:
        super().__init__()
        parts = parts or Parts()
        self.merge = parts.convolution(nn.Conv2d(in_channels, out_channels, 2, 2, bias=False))
        self.neuron_out = parts.spiking()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The encoding's current and its spikes."""
        h = each_step(self.merge, x)
        return h, output_of(self.neuron_out(h))


# torch.fx records this as it is, because it looks at the shape of its input.
@torch.fx.wrap
def _distinct_steps(x: Tensor) -> Tensor:
    """One step if all are the same memory, as ``expand`` leaves them; otherwise every step."""
    return x[:1] if x.stride(0) == 0 and x.shape[0] > 1 else x
