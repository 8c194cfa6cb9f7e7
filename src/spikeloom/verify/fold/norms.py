"""Each batch norm and average pool into the neighbour that can take it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from spikeloom.kernel.neuron import Neuron
from spikeloom.neurons.lif import IF, LIF
from spikeloom.verify.fold.draft import Draft, neuron_of
from spikeloom.verify.fold.shift import FeatureShift, FoldedNorm
from spikeloom.verify.fold.weights import (
    affine,
    has_time,
    is_plain_norm,
    is_weight,
    normalises_outputs,
    output_dims,
    scale_inputs,
    scale_outputs,
    set_tensors,
)

__all__ = ["fold_all"]

Fold = Callable[[Draft, str, Any], tuple[str, str]]

# Norms that compute statistics at inference too; nothing can fold them.
DATA_DEPENDENT = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


def fold_all(draft: Draft) -> None:
    """Every norm, then every average pool, each in the order of the model."""
    folds: tuple[tuple[type, Fold], ...] = (
        (_BatchNorm, _fold_norm),
        (nn.modules.pooling._AvgPoolNd, _fold_pool),
    )
    for kind, fold in folds:
        for name, module in list(draft.model.named_modules()):
            if isinstance(module, kind):
                draft.report.add(name, type(module).__name__, *fold(draft, name, module))
    for name, module in draft.model.named_modules():
        if isinstance(module, DATA_DEPENDENT):
            why = "its mean and variance depend on the sample"
            draft.report.add(name, type(module).__name__, "remains", why)


def _fold_norm(draft: Draft, name: str, norm: Any) -> tuple[str, str]:
    """Fold one norm in the first way that is exact; what came of it, and why."""
    if name not in draft.connections.calls:
        return "remains", "torch.fx does not see where it is called"
    if not is_plain_norm(norm):
        return "remains", "is more than a batch norm in eval mode"
    features = getattr(norm, "feature_shape", None)
    before = draft.connections.before(name)
    after = draft.connections.after(name, mapped=features is not None)
    weight, following = draft.module(before), draft.module(after)
    if before is not None and features is None and normalises_outputs(norm, weight):
        scale_outputs(weight, *affine(norm))
        draft.replace(name, FoldedNorm(output_dims(norm, weight)))
        return "folded", f"into weights of {before}"
    neuron = neuron_of(following)
    if after is not None and _rests_at_zero(neuron):
        shape = features or _feature_shape(norm, weight)
        _fold_into_threshold(draft, name, after, norm, shape)
        return "folded", f"into thresholds of {after}"
    target = draft.connections.weight_behind(name)
    if target is not None and features is None and scale_inputs(draft.module(target), norm):
        draft.replace(name, nn.Identity())
        return "folded", f"into weights of {target}"
    return "remains", _reason(weight, norm, neuron)


def _fold_into_threshold(
    draft: Draft, name: str, after: str, norm: Any, shape: Sequence[int]
) -> None:
    """The norm becomes a sign and a shift, the neuron's threshold one value a feature."""
    a, d = affine(norm)
    size = torch.where(a == 0, torch.ones_like(a), a.abs())
    dtype, tokens = norm.running_var.dtype, getattr(norm, "tokens", None)
    own = shape if tokens is None else (-1, 1)
    dims = 2 if tokens is not None else len(shape) + 1 + has_time(norm)
    sign, shift = a.sign().reshape(own), (d / size).to(dtype).reshape(own)
    draft.replace(name, FeatureShift(sign, shift, dims, tokens))
    settings = draft.settings(after)
    settings["v_threshold"] = (settings["v_threshold"] / size).to(dtype).reshape(shape)
    lif = IF if "tau" not in settings else LIF
    draft.replace(after, draft.make(lif(**settings)))


def _fold_pool(draft: Draft, name: str, pool: Any) -> tuple[str, str]:
    """Turn an average into a sum, if the next weight layer can take the factor."""
    target = draft.connections.weight_behind(name)
    if not isinstance(pool, nn.AvgPool2d):
        return (
            "remains",
            "its number of positions depends on the input, or cannot be overridden",
        )
    if target is None:
        return "remains", "no weight layer follows it alone"
    if pool.divisor_override != 1:
        sides = (pool.kernel_size,) * 2 if isinstance(pool.kernel_size, int) else pool.kernel_size
        if pool.ceil_mode or (pool.padding not in (0, (0, 0)) and not pool.count_include_pad):
            return "remains", "its positions count differently at the border"
        layer = draft.module(target)
        set_tensors(layer, weight=layer.weight.detach().double() / (sides[0] * sides[1]))
        pool.divisor_override = 1
    return "sum", f"its 1/n is in the weights of {target}"


def _rests_at_zero(neuron: Neuron | None) -> bool:
    """Whether a neuron's threshold can take a factor: all else in it must scale along."""
    return (
        isinstance(neuron, LIF)
        and not neuron.v_reset
        and isinstance(neuron.params["v_threshold"], (int, float))
    )


def _feature_shape(norm: Any, weight: Any) -> tuple[int, ...]:
    """How the norm's features broadcast against what a neuron sees of one sample."""
    if isinstance(norm, nn.BatchNorm3d):
        return (-1, 1, 1, 1)
    if isinstance(norm, nn.BatchNorm2d):
        return (-1, 1, 1)
    # A one-dimensional norm of other features than a linear layer's outputs sees [N, tokens, F].
    return (-1, 1) if isinstance(weight, (nn.Linear, nn.Conv1d)) else (-1,)


def _reason(weight: Any, norm: Any, neuron: Neuron | None) -> str:
    if isinstance(neuron, LIF):
        return "the neuron behind it does not rest at 0, or has thresholds of its own"
    if is_weight(weight):
        return (
            f"normalises {len(norm.running_var)} features that are not the layer's outputs, "
            f"and no neuron follows: one multiplication a value"
        )
    return "no weight layer or neuron next to it alone can take it"
