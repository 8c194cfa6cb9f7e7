"""The blocks that mix tokens and channels, and the stages that they make up."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from spikeloom.hosted import output_of
from spikeloom.models.spiking_mlp.parts import Parts, each_step, each_token, join
from spikeloom.models.spiking_mlp.sizes import Size

__all__ = ["Block", "ChannelBlock", "Stage", "TokenBlock"]


class TokenBlock(nn.Module):
    r"""Mixes tokens: spikes along the width, along the height, and themselves, fused by channel.

    .. math::
        x_w &= \mathrm{LIF}(\mathrm{BN}_W(A_w x)),\qquad x_h = \mathrm{LIF}(\mathrm{BN}_H(A_h x)) \\
        t &= \mathrm{BN}_C(\mathrm{Conv}_{1 \times 1}([x, x_h, x_w]))

    Args:
        size: Height and width of the map, which the weights depend on.
        channels: C.
        parts: Makes neurons and norms; None takes the paper's.
        fresh_identity: Put batch norm and neuron in front of the identity path too, as the
            published network without spiking patch encoding does.

    Shape:
        - Input: spikes ``[T, B, C, H, W]``
        - Output: current of the same shape
    """

    def __init__(
        self,
        size: Size,
        channels: int,
        parts: Parts | None = None,
        *,
        fresh_identity: bool = False,
    ) -> None:
        super().__init__()
        parts = parts or Parts()
        height, width = size
        self.along_width = parts.convolution(nn.Conv1d(width, width, 1))
        self.width_neuron = parts.spiking()
        self.along_height = parts.convolution(nn.Conv1d(height, height, 1))
        self.height_neuron = parts.spiking()
        if fresh_identity:
            self.identity = nn.Sequential(*parts.norm(nn.BatchNorm2d(channels)))
            self.identity_neuron = parts.spiking()
        self.fresh_identity = fresh_identity
        self.fuse = parts.linear(nn.Linear(3 * channels, channels, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """The token current."""
        # [T, B, C, H, W] <-> [T, axis, the rest]: the mixed axis as the channels of a Conv1d.
        columns = x.permute(0, 4, 1, 3, 2)
        along_width = self.along_width(columns.flatten(2)).unflatten(2, columns.shape[2:])
        x_w = output_of(self.width_neuron(along_width.permute(0, 2, 4, 3, 1)))
        rows = x.permute(0, 3, 1, 4, 2)
        along_height = self.along_height(rows.flatten(2)).unflatten(2, rows.shape[2:])
        x_h = output_of(self.height_neuron(along_height.permute(0, 2, 4, 1, 3)))
        if self.fresh_identity:
            x = output_of(self.identity_neuron(each_step(self.identity, x)))
        return each_token(self.fuse, join((x, x_h, x_w)))


class ChannelBlock(nn.Module):
    r"""Mixes channels: up, neuron, down.

    .. math:: z = \mathrm{LIF}(\mathrm{BN}(W_1 x + b_1)),\qquad c = \mathrm{BN}(W_2 z + b_2)

    The published network normalises each token position (``bn_axis="token"``), which does not fold
    into the weights; normalising each channel does.

    Args:
        size: Height and width of the map.
        channels: C.
        expansion: Hidden channels per channel.
        parts: Makes neurons and norms; None takes the paper's with ``bn_axis="channel"``.

    Shape:
        - Input: spikes ``[T, B, C, H, W]``
        - Output: current of the same shape
    """

    def __init__(
        self, size: Size, channels: int, expansion: int = 3, parts: Parts | None = None
    ) -> None:
        super().__init__()
        parts = parts or Parts()
        hidden = expansion * channels
        self.up = parts.linear(nn.Linear(channels, hidden), size)
        self.neuron_up = parts.spiking()
        self.down = parts.linear(nn.Linear(hidden, channels), size)

    def forward(self, x: Tensor) -> Tensor:
        """The channel current."""
        return each_token(self.down, output_of(self.neuron_up(each_token(self.up, x))))


class Block(nn.Module):
    r"""Token mixing, then channel mixing, both on top of the stage's anchor current h.

    .. math::
        t = \mathrm{token}(x),\qquad x' = \mathrm{LIF}(h + t),\qquad
        x'' = \mathrm{LIF}(h + t + \mathrm{channel}(x'))

    Args:
        size: Height and width of the map.
        channels: C.
        expansion: Hidden channels per channel.
        parts: Makes neurons and norms.
        fresh_identity: See :class:`TokenBlock`.

    Shape:
        - Input: anchor current and spikes, ``[T, B, C, H, W]`` each
        - Output: spikes of the same shape
    """

    def __init__(
        self, size: Size, channels: int, expansion: int, parts: Parts, fresh_identity: bool
    ) -> None:
        super().__init__()
        self.token = TokenBlock(size, channels, parts, fresh_identity=fresh_identity)
        self.token_neuron = parts.spiking()
        self.channel = ChannelBlock(size, channels, expansion, parts)
        self.channel_neuron = parts.spiking()

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Spikes in, spikes out; the anchor is read, not changed."""
        current = h + self.token(x)
        x = output_of(self.token_neuron(current))
        return output_of(self.channel_neuron(current + self.channel(x)))


class Stage(nn.Module):
    """An embedding and the blocks anchored on its current.

    Args:
        embed: Gives current and spikes.
        blocks: The stage's blocks.

    Shape:
        - Input: ``[T, B, C_in, H_in, W_in]``, an image or spikes
        - Output: spikes ``[T, B, C, H, W]``
    """

    def __init__(self, embed: nn.Module, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Embed, then mix."""
        h, x = self.embed(x)
        for block in self.blocks:
            x = block(h, x)
        return x
