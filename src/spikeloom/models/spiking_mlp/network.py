"""The network: stages of blocks, a head, the named configurations, published weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.hosted import Make
from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.values import checked_count
from spikeloom.layer import SpikingLayer
from spikeloom.models.spiking_mlp.blocks import Block, Stage
from spikeloom.models.spiking_mlp.parts import Parts, each_step, relu
from spikeloom.models.spiking_mlp.patches import PatchEmbedding, PatchEncoding, PatchMerging
from spikeloom.models.spiking_mlp.published import infer, load
from spikeloom.models.spiking_mlp.sizes import (
    Size,
    check_depths,
    check_option,
    pair,
    stage_sizes,
)

__all__ = ["CONFIGURATIONS", "SpikingMLP"]

CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
    "spe-t": {"dim": 78, "depths": (2, 8, 14, 2), "bn_axis": "token"},
    "s": {"dim": 96, "depths": (2, 8, 14, 2), "bn_axis": "token", "patch_encoding": "conv"},
    "spe-s": {"dim": 96, "depths": (2, 8, 14, 2), "bn_axis": "token"},
    "spe-b": {"dim": 108, "depths": (2, 10, 24, 2), "bn_axis": "token", "steps": 6},
}


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
        steps: T of an input that has no time axis; with ``norm="tebn"`` of every input.
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
        check_depths(depths)
        counts = {"in_channels": in_channels, "num_classes": num_classes, "dim": dim}
        counts |= {"steps": steps, "expansion": expansion}
        counts |= {f"depths[{i}]": depth for i, depth in enumerate(depths)}
        for name, value in counts.items():
            checked_count(name, value)
        check_option("patch_encoding", patch_encoding, ("spiking", "conv"))
        self.image_size = pair("image_size", image_size)
        self.patch_size = pair("patch_size", patch_size)
        self.in_channels, self.num_classes, self.dim = in_channels, num_classes, dim
        self.depths, self.bn_axis, self.steps = tuple(depths), bn_axis, steps
        self.expansion, self.patch_encoding, self.norm = expansion, patch_encoding, norm
        sizes = stage_sizes(self.image_size, self.patch_size, len(self.depths))
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
        check_option("name", name, tuple(CONFIGURATIONS))
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
        settings = infer(state_dict, steps)
        if patch_size is not None and pair("patch_size", patch_size) != settings["patch_size"]:
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
            make=relu,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Class scores at every step."""
        x = _sequence(x, self.steps, self.in_channels, self.image_size, self.norm == "tebn")
        for stage in self.stages:
            x = stage(x)
        return each_step(self.head, x)


# torch.fx records this as it is, because it looks at the shape of its input.
@torch.fx.wrap
def _sequence(x: Tensor, steps: int, channels: int, size: Size, fixed: bool) -> Tensor:
    """``[T, B, C, H, W]``, checked; an image without time is shown at every step.

    Args:
        x: Images.
        steps: T of images without time.
        channels: C.
        size: H and W.
        fixed: Whether any other T is refused.
    """
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
    if x.dim() == 4:
        return x.expand(steps, *x.shape)
    if fixed and len(x) != steps:
        raise ValueError(
            f"x: has {len(x)} steps; norm='tebn' has a factor for each of the steps={steps} that "
            f"the model was made with, and takes no other number"
        )
    return x
