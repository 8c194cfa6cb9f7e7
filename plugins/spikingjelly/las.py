"""LAS as a recipe of SpikingJelly's ann2snn."""

from __future__ import annotations

from typing import Any

from spikingjelly.activation_based.ann2snn.recipes.base import ModuleConversionRecipe
from torch import nn

from spikeloom import convert

__all__ = ["LASRecipe"]


class LASRecipe(ModuleConversionRecipe):
    """Convert a transformer to few-spike neurons with ``ann2snn.ModuleConverter``.

    The converted network has no memory between calls: ``reset_net`` and ``set_step_mode`` leave it
    as it is, and it computes one decoded value per call in any container.

    Args:
        calibration: Batches, as for :meth:`spikeloom.convert.LAS.apply`.
        settings: The arguments of :class:`spikeloom.convert.LAS`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikingjelly.activation_based import ann2snn
        >>> from spikeloom.plugins.spikingjelly import LASRecipe
        >>> ann = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8))
        >>> recipe = LASRecipe([torch.randn(32, 4)], steps=10, progress=False)
        >>> snn = ann2snn.ModuleConverter(recipe).convert(ann)
        >>> snn(torch.randn(2, 4)).shape
        torch.Size([2, 8])
    """

    def __init__(self, calibration: Any, **settings: Any) -> None:
        super().__init__()
        self.calibration = calibration
        self.las = convert.LAS(**settings)

    def convert_module(self, converter: Any, ann: nn.Module) -> nn.Module:
        """A converted copy; called by the converter."""
        return self.las.apply(ann, self.calibration)
