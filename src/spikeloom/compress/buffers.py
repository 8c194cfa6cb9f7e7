"""What a compressed layer keeps beside its weight, and what holds it true."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.grid import BUFFERS, is_on_grid
from spikeloom.rows import outputs_first

__all__ = ["BUFFERS", "blank", "codes_of", "hold_zeros", "keep", "release"]


def keep(layer: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Give a layer buffers, and the hooks that hold them true."""
    for name, value in buffers.items():
        layer.register_buffer(name, value)
        if name == "weight_mask" and hold_zeros not in layer._forward_pre_hooks.values():
            layer.register_forward_pre_hook(hold_zeros)
            layer.register_state_dict_pre_hook(save_zeros)
        if name == "weight_codes" and warn_of_stale_codes not in saving_hooks(layer):
            layer.register_state_dict_pre_hook(warn_of_stale_codes)


def release(layer: nn.Module) -> None:
    """Take the hooks away that :func:`keep` gave a layer, and the marks of its compression."""
    ours = (hold_zeros, save_zeros, warn_of_stale_codes)
    for hooks in (layer._forward_pre_hooks, layer._state_dict_pre_hooks):
        for key in [key for key, hook in hooks.items() if hook in ours]:
            del hooks[key]
    vars(layer).pop("compressed_from", None)


def blank(layer: Any, name: str, dtype: torch.dtype) -> Tensor:
    """What a buffer of a layer is before its values are known."""
    shape = layer.weight.shape
    if name == "weight_scale":
        shape = outputs_first(layer, layer.weight).shape[:1]
    return torch.zeros(shape, dtype=dtype, device=layer.weight.device)


def hold_zeros(layer: Any, args: Any) -> None:
    """Put removed weights back to zero, whatever an optimiser has made of them."""
    if getattr(layer, "weight_mask", None) is not None:
        if torch.compiler.is_exporting():
            raise ValueError(
                "model: a pruned layer writes zeros into its weight in every call, which no "
                "exported graph can; export the network that compress.finish(model) makes"
            )
        # Through .data: a layer that is called at every step must not invalidate its earlier calls.
        layer.weight.data.masked_fill_(layer.weight_mask, 0.0)


def save_zeros(layer: Any, prefix: str, keep_vars: bool) -> None:
    """Put removed weights back to zero before they are saved."""
    hold_zeros(layer, ())


def codes_of(layer: Any, weight: Tensor, mask: Tensor) -> Tensor | None:
    """What the codes of a quantised layer become when its weight changes.

    Args:
        layer: The layer.
        weight: Its new weight.
        mask: True where a weight is removed.

    Returns:
        The codes; None if the other weights are no longer on the grid.
    """
    codes: Tensor = layer.weight_codes.masked_fill(mask, 0)
    return codes if is_on_grid(layer, weight, codes) else None


def saving_hooks(layer: nn.Module) -> list[Any]:
    """What runs before a layer is saved."""
    return list(layer._state_dict_pre_hooks.values())


def warn_of_stale_codes(layer: Any, prefix: str, keep_vars: bool) -> None:
    """Say so when a layer is saved with codes that are no longer its weight's."""
    held = getattr(layer, "weight_codes", None)
    if held is not None and not layer.weight.is_meta and not is_on_grid(layer, layer.weight, held):
        warnings.warn(
            f"{prefix}weight_codes: the weight has changed since it was quantised, and is no "
            "longer scale times code; calibrate and quantise again",
            stacklevel=2,
        )
