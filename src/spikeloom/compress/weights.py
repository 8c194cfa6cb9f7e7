"""Which weights can be changed in place: plain ones, their layer's own, and all that it applies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.compress.hessian import check_finite
from spikeloom.rows import entering, product

__all__ = ["check_layer", "check_weights"]

# How far a layer's output may be from the product of weight and input, as a share of the largest.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
COARSE = 0.05


def check_weights(modules: Mapping[str, nn.Module], names: Iterable[str]) -> None:
    """Raise unless what is written into a layer's weight stays there, and changes nothing else.

    Args:
        modules: All of the model's, by name.
        names: The weight layers among them that are to be compressed.

    Raises:
        ValueError: If a weight is computed from other tensors, is another module's too, or holds no
            finite numbers.
    """
    owners: dict[int, list[str]] = {}
    for name, module in modules.items():
        for place in {p.data_ptr() for p in module._parameters.values() if p is not None}:
            owners.setdefault(place, []).append(name)
    for name in names:
        layer: Any = modules[name]
        weight = layer._parameters.get("weight")
        if weight is None:
            raise ValueError(
                f"layers: the weight of {name!r} is computed from other tensors, so that nothing "
                "can be written into it; make it a plain parameter (remove_parametrizations or "
                "remove_weight_norm; torch.nn.utils.prune.remove), or name the layers to compress "
                "without it (layers=[...])"
            )
        if not weight.is_floating_point() or not bool(torch.isfinite(weight.detach()).all()):
            raise ValueError(
                f"layers: the weight of {name!r} must hold finite floating-point numbers, got "
                f"{weight.dtype if not weight.is_floating_point() else 'NaN or infinity'}"
            )
        others = [other for other in owners[weight.data_ptr()] if other != name]
        if others:
            raise ValueError(
                f"layers: {name!r} and {others[0]!r} share one weight; name the layers to compress "
                "without them (layers=[...])"
            )


def check_layer(name: str, layer: Any, x: Tensor, output: Any) -> None:
    """Raise unless a layer puts out its weight times its input, plus its bias.

    Args:
        name: What errors call it.
        layer: The layer.
        x: What it was called with, with any axes in front.
        output: What it returned.

    Raises:
        ValueError: If it does not, as one that standardises its weight, or has a hook that scales;
            if it is called within ``torch.vmap``; or if the input holds NaN or infinity.
    """
    if torch._C._functorch.is_batchedtensor(x):
        raise ValueError(
            f"layer {name!r}: is called within torch.vmap, where its input has no values to read; "
            f"call it for the whole batch"
        )
    try:
        check_finite(x)
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from None
    expected = product(layer, entering(layer, x))
    same = isinstance(output, Tensor) and output.numel() == expected.numel()
    if same and expected.numel():
        away = (output.reshape(expected.shape) - expected).abs().max()
        same = not bool(away > TOLERANCES.get(expected.dtype, COARSE) * expected.abs().max())
    if not same:
        raise ValueError(
            f"layer {name!r}: puts out something else than its weight times its input "
            f"({type(layer).__name__} or a hook on it computes more), and what its weight does is "
            "not known; name the layers to compress without it (layers=[...]), or compress the "
            "network before what changes the layer, such as a conversion"
        )
