"""The multiplication-free spiking MLP: an image network in which weights only ever see spikes.

Sequences are ``[T, B, C, H, W]``, time first. A *current* is the real value in front of a neuron, a
*spike* is 0 or 1. Every layer is weight, then batch norm, then neuron; shortcuts add currents.
After :func:`spikeloom.verify.fold_norms` no multiplication is left behind the first convolution.

In memory the channels come last, so that what the paper calls a 1x1 convolution is one matrix
product over all tokens.

Source: Li, Leng, Shen et al., "Efficient Deep Spiking Multi-Layer Perceptrons with
Multiplication-Free Inference", IEEE TNNLS 36(4), arXiv 2306.12465.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.kernel.neuron import Neuron
from spikeloom.layer import SpikingLayer
from spikeloom.models.norms import NORMS, StepScale, TokenBatchNorm, make_norm
from spikeloom.neurons.lif import LIF

__all__ = [
    "CONFIGURATIONS",
    "Block",
    "ChannelBlock",
    "Parts",
    "PatchEmbedding",
    "PatchEncoding",
    "PatchMerging",
    "SpikingMLP",
    "Stage",
    "TokenBlock",
]

Make = Callable[[Neuron], nn.Module]
Size = tuple[int, int]

CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
    "spe-t": {"dim": 78, "depths": (2, 8, 14, 2), "bn_axis": "token"},
    "s": {"dim": 96, "depths": (2, 8, 14, 2), "bn_axis": "token", "patch_encoding": "conv"},
    "spe-s": {"dim": 96, "depths": (2, 8, 14, 2), "bn_axis": "token"},
    "spe-b": {"dim": 108, "depths": (2, 10, 24, 2), "bn_axis": "token", "steps": 6},
}


class Parts:
    """What the blocks are made of: how they make their neurons and norms.

    Args:
        make: Turns a neuron description into a module, such as ``plugins.<host>.make``.
        neuron: The description; None is the paper's ``LIF(detach_reset=True)``.
        norm: ``"bn"``, ``"tdbn"`` or ``"tebn"``.
        bn_axis: What the channel blocks normalise, ``"channel"`` or ``"token"``.
        steps: T, for tebn.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.models.spiking_mlp import Parts, TokenBlock
        >>> block = TokenBlock((4, 6), 5, Parts(neuron=spikeloom.neurons.LIF(v_reset=None)))
        >>> block(torch.ones(4, 2, 5, 4, 6)).shape
        torch.Size([4, 2, 5, 4, 6])
    """

    def __init__(
        self,
        make: Make = SpikingLayer,
        neuron: Neuron | None = None,
        *,
        norm: str = "bn",
        bn_axis: str = "channel",
        steps: int = 4,
    ) -> None:
        _check_option("bn_axis", bn_axis, ("channel", "token"))
        _check_option("norm", norm, NORMS)
        self._make = make
        self._neuron = LIF(detach_reset=True) if neuron is None else neuron
        self._norm, self._axis, self._steps = norm, bn_axis, steps

    def spiking(self) -> nn.Module:
        """A neuron of its own for one place, set to whole sequences where a host steps."""
        module: Any = self._make(copy.deepcopy(self._neuron))
        if getattr(module, "time_first", None) is False:
            module.time_first = True
        return module

    def convolution(self, weight: nn.Conv1d | nn.Conv2d, groups: int = 1) -> nn.Sequential:
        """A convolution and its norm: spikes in, current out."""
        batch_norm = nn.BatchNorm1d if isinstance(weight, nn.Conv1d) else nn.BatchNorm2d
        return nn.Sequential(weight, *self.norm(batch_norm(weight.out_channels), groups))

    def linear(self, weight: nn.Linear, tokens: Size | None = None) -> nn.Sequential:
        """A linear layer over channels and its norm, which may be that of the tokens."""
        if tokens is not None and self._axis == "token":
            return nn.Sequential(weight, *self.norm(TokenBatchNorm(tokens)))
        return nn.Sequential(weight, *self.norm(nn.BatchNorm1d(weight.out_features)))

    def norm(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, groups: int = 1) -> list[nn.Module]:
        """The modules that make up a norm."""
        return make_norm(self._norm, norm, self._steps, groups)


def _spikes(y: Any) -> Any:
    """What a neuron module emits; some hosts return its state beside it."""
    return y[0] if isinstance(y, tuple) else y


def _each_step(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module without time to ``[T, B, ...]``."""
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _each_token(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module over channels to every token of ``[T, B, C, H, W]``: one matrix product."""
    tokens = x.movedim(2, -1)
    return module(tokens.flatten(0, 3)).unflatten(0, tokens.shape[:4]).movedim(-1, 2)


def _join(maps: Sequence[Tensor]) -> Tensor:
    """Concatenate ``[T, B, C, H, W]`` along the channels, which stay last in memory."""
    return torch.cat([x.movedim(2, -1) for x in maps], -1).movedim(-1, 2)


def _thirds(x: Tensor) -> list[Tensor]:
    """Three groups of channels, each dense in memory, as neurons and convolutions like it."""
    # Unpacked by name, because torch.fx follows that and no loop.
    first, second, third = x.movedim(2, -1).chunk(3, -1)
    return [group.contiguous().movedim(-1, 2) for group in (first, second, third)]


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
        return h, _spikes(self.neuron_out(h))


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
        n1, n2, n3 = _thirds(_each_step(self.groups, x))
        s1 = _spikes(self.neuron_1(n1))
        n2 = n2 + _each_step(self.link_1, s1)
        s2 = _spikes(self.neuron_2(n2))
        n3 = n3 + n1 + _each_step(self.link_2, s2)
        s3 = _spikes(self.neuron_3(n3))
        return _join((n1, n2, n3)), _join((s1, s2, s3))


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
        h = _each_step(self.merge, x)
        return h, _spikes(self.neuron_out(h))


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
        x_w = _spikes(self.width_neuron(along_width.permute(0, 2, 4, 3, 1)))
        rows = x.permute(0, 3, 1, 4, 2)
        along_height = self.along_height(rows.flatten(2)).unflatten(2, rows.shape[2:])
        x_h = _spikes(self.height_neuron(along_height.permute(0, 2, 4, 1, 3)))
        if self.fresh_identity:
            x = _spikes(self.identity_neuron(_each_step(self.identity, x)))
        return _each_token(self.fuse, _join((x, x_h, x_w)))


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
        return _each_token(self.down, _spikes(self.neuron_up(_each_token(self.up, x))))


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
        x = _spikes(self.token_neuron(current))
        return _spikes(self.channel_neuron(current + self.channel(x)))


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


class SpikingMLP(nn.Module):
    """The spiking MLP of the paper, for any image and size.

    Args:
        image_size: Height and width of the image; an int for both.
        patch_size: Height and width of a patch; an int for both.
        in_channels: Channels of the image.
        num_classes: Outputs.
        dim: Channels of the first stage; each later stage doubles them and halves the map.
        depths: Blocks in each stage.
        bn_axis: What the channel blocks normalise: ``"channel"`` folds into the weights exactly,
            ``"token"`` is as published and does not.
        steps: T of an input that has no time axis.
        expansion: Hidden channels per channel in the channel blocks.
        patch_encoding: Between stages: ``"spiking"`` or ``"conv"``.
        norm: ``"bn"``, ``"tdbn"`` or ``"tebn"``.
        neuron: The description of every neuron; None is the paper's
            ``LIF(tau=2.0, v_threshold=1.0, v_reset=0.0, detach_reset=True)``.
        make: Turns a description into a module, such as ``plugins.<host>.make``. A host whose
            neurons keep state must be reset between batches, as always in that host.

    Shape:
        - Input: ``[T, B, C, H, W]``; or ``[B, C, H, W]``, shown at each of ``steps`` steps
        - Output: ``[T, B, num_classes]``; the prediction is the mean over T

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If sizes do not divide or an option does not exist; the message names which.

    Example:
        >>> import torch
        >>> from spikeloom.models import SpikingMLP
        >>> model = SpikingMLP(image_size=8, patch_size=2, in_channels=1, num_classes=10, dim=24,
        ...                    depths=(1, 1))
        >>> sum(p.numel() for p in model.parameters())
        42870
        >>> model(torch.rand(2, 1, 8, 8)).shape
        torch.Size([4, 2, 10])
    """

    def __init__(
        self,
        image_size: int | Size = 224,
        patch_size: int | Size = 4,
        in_channels: int = 3,
        num_classes: int = 1000,
        dim: int = 96,
        depths: Sequence[int] = (2, 8, 14, 2),
        bn_axis: str = "channel",
        steps: int = 4,
        *,
        expansion: int = 3,
        patch_encoding: str = "spiking",
        norm: str = "bn",
        neuron: Neuron | None = None,
        make: Make = SpikingLayer,
    ) -> None:
        super().__init__()
        counts = {"in_channels": in_channels, "num_classes": num_classes, "dim": dim}
        counts |= {"steps": steps, "expansion": expansion}
        counts |= {f"depths[{i}]": depth for i, depth in enumerate(depths)}
        for name, value in counts.items():
            _check_count(name, value)
        _check_option("patch_encoding", patch_encoding, ("spiking", "conv"))
        if not depths:
            raise ValueError("depths: needs one number of blocks for each stage, got none")
        self.image_size = _pair("image_size", image_size)
        self.patch_size = _pair("patch_size", patch_size)
        self.in_channels, self.num_classes, self.dim = in_channels, num_classes, dim
        self.depths, self.bn_axis, self.steps = tuple(depths), bn_axis, steps
        self.expansion, self.patch_encoding, self.norm = expansion, patch_encoding, norm
        sizes = _stage_sizes(self.image_size, self.patch_size, len(self.depths))
        parts = Parts(make, neuron, norm=norm, bn_axis=bn_axis, steps=steps)
        self.stages = nn.ModuleList(
            self._stage(number, size, parts) for number, size in enumerate(sizes)
        )
        channels = dim * 2 ** (len(self.depths) - 1)
        self.head = nn.Sequential(
            *parts.norm(nn.BatchNorm2d(channels)),
            nn.AvgPool2d(sizes[-1]),
            nn.Flatten(),
            nn.Linear(channels, num_classes),
        )

    def _stage(self, number: int, size: Size, parts: Parts) -> Stage:
        channels = self.dim * 2**number
        spiking = self.patch_encoding == "spiking"
        embed: nn.Module
        if number == 0:
            embed = PatchEmbedding(self.in_channels, channels, self.patch_size, parts)
        else:
            encoding = PatchEncoding if spiking else PatchMerging
            embed = encoding(channels // 2, channels, parts)
        blocks = [
            Block(size, channels, self.expansion, parts, fresh_identity=not spiking)
            for _ in range(self.depths[number])
        ]
        return Stage(embed, blocks)

    @classmethod
    def named(cls, name: str, **changes: Any) -> SpikingMLP:
        """A configuration of the paper: ``"spe-t"``, ``"s"``, ``"spe-s"`` or ``"spe-b"``.

        They normalise tokens, as published; ``bn_axis="channel"`` gives the network that folds.

        Args:
            name: Which one.
            changes: Arguments that replace the configuration's own.

        Raises:
            ValueError: If there is no such configuration.

        Example:
            >>> from spikeloom.models import SpikingMLP
            >>> model = SpikingMLP.named("spe-t", image_size=32, num_classes=10)
            >>> model.depths
            (2, 8, 14, 2)
        """
        _check_option("name", name, tuple(CONFIGURATIONS))
        return cls(**{**CONFIGURATIONS[name], **changes})

    @classmethod
    def from_published(
        cls,
        state_dict: Mapping[str, Tensor],
        *,
        patch_size: int | Size | None = None,
        steps: int = 4,
        make: Make = SpikingLayer,
    ) -> SpikingMLP:
        """The network of a published state dict, with its weights; every size is inferred.

        Args:
            state_dict: In the layout of the authors' code (``to_patch_embedding.0.0.weight`` ...),
                with or without spiking patch encoding and temporal norms.
            patch_size: Only to check; it is inferred.
            steps: T of an input that has no time axis; a temporal norm knows its own.
            make: See the class.

        Returns:
            The model, with ``bn_axis="token"``, in the state dict's dtype.

        Raises:
            ValueError: If keys are missing, left over or of the wrong shape; the message lists
                them.
        """
        from spikeloom.models.published import infer, load

        settings = infer(state_dict, steps)
        if patch_size is not None and _pair("patch_size", patch_size) != settings["patch_size"]:
            raise ValueError(
                f"patch_size: the state dict has patches of {settings['patch_size']}, "
                f"got {patch_size}"
            )
        model = cls(**settings, make=make)
        load(model, state_dict)
        return model

    def load_published(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take the weights of a published state dict of this very configuration.

        Args:
            state_dict: In the layout of the authors' code.

        Raises:
            ValueError: If it belongs to another configuration; the message says which keys differ.
        """
        from spikeloom.models.published import load

        load(self, state_dict)

    def ann_twin(self) -> SpikingMLP:
        """The same network with ReLU for neurons and one step, freshly initialised.

        Its output has the shape ``[1, B, num_classes]``.
        """
        return SpikingMLP(
            image_size=self.image_size,
            patch_size=self.patch_size,
            in_channels=self.in_channels,
            num_classes=self.num_classes,
            dim=self.dim,
            depths=self.depths,
            bn_axis=self.bn_axis,
            steps=1,
            expansion=self.expansion,
            patch_encoding=self.patch_encoding,
            make=_relu,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Class scores at every step."""
        x = _sequence(x, self.steps, self.in_channels, self.image_size)
        for stage in self.stages:
            x = stage(x)
        return _each_step(self.head, x)


def _relu(neuron: Neuron) -> nn.Module:
    return nn.ReLU()


# torch.fx records these two as they are, because they look at the shape of their input.


@torch.fx.wrap
def _sequence(x: Tensor, steps: int, channels: int, size: Size) -> Tensor:
    """``[T, B, C, H, W]``, checked; an image without time is shown at every step."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x: must be a floating-point tensor [T, B, C, H, W], got {got}")
    if x.dim() not in (4, 5) or x.shape[-3:] != (channels, *size):
        raise ValueError(
            f"x: must be [T, B, C, H, W] or [B, C, H, W] with C={channels} and H, W={size}, "
            f"got {tuple(x.shape)}; the weights depend on the image size"
        )
    if not x.shape[-4]:
        raise ValueError(f"x: holds no image, its shape is {tuple(x.shape)}")
    return x if x.dim() == 5 else x.expand(steps, *x.shape)


@torch.fx.wrap
def _distinct_steps(x: Tensor) -> Tensor:
    """One step if all are the same memory, as ``expand`` leaves them; otherwise every step."""
    return x[:1] if x.stride(0) == 0 and x.shape[0] > 1 else x


# --- What the arguments must satisfy ---------------------------------------------------------


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: must be at least 1, got {value}")


def _check_option(name: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise ValueError(f"{name}: must be one of {', '.join(options)}; got {value!r}")


def _pair(name: str, value: int | Size) -> Size:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2:
        raise ValueError(f"{name}: must be an int or (height, width), got {value!r}")
    for side in pair:
        _check_count(name, side)
    return pair[0], pair[1]


def _stage_sizes(image: Size, patch: Size, stages: int) -> list[Size]:
    """Height and width of the map in every stage."""
    if image[0] % patch[0] or image[1] % patch[1]:
        raise ValueError(
            f"image_size: {image} does not divide into patches of patch_size={patch}; "
            f"crop or pad the image"
        )
    sizes = [(image[0] // patch[0], image[1] // patch[1])]
    for number in range(1, stages):
        height, width = sizes[-1]
        if height % 2 or width % 2:
            raise ValueError(
                f"depths: stage {number} would halve a map of {height} x {width}, which is odd; "
                f"with image_size={image} and patch_size={patch} use {number} stage(s)"
            )
        sizes.append((height // 2, width // 2))
    return sizes
