"""Each batch norm into the neighbour that can take it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from spikeloom.grid import has_grid
from spikeloom.layer import SpikingLayer
from spikeloom.modules import is_neuron
from spikeloom.verify.fold.connections import Path
from spikeloom.verify.fold.draft import Draft, lif_of
from spikeloom.verify.fold.layout import Layout, along, is_pool, layout_of, spatial
from spikeloom.verify.fold.plain import is_plain_norm, is_weight
from spikeloom.verify.fold.shift import FeatureShift, FoldedNorm
from spikeloom.verify.fold.weights import affine, scale_inputs, scale_outputs, takes_inputs

__all__ = ["fold_norm"]

# Axes in front of a linear layer's outputs; its weights do not tell how many there are.
LEADING = range(1, 7)
# A gain so small, as weight decay leaves it, moves nothing beside a threshold.
NEGLIGIBLE = 1e-29


def fold_norm(draft: Draft, name: str, norm: Any) -> tuple[str, str]:
    """Fold one norm in the first way that is exact; what came of it, and why."""
    if name not in draft.connections.calls:
        return "remains", "torch.fx does not see where it is called"
    if not is_plain_norm(norm):
        return "remains", "is more than a batch norm in eval mode, or has hooks"
    for into in (_into_weight_in_front, _into_threshold, _into_weight_behind):
        found = into(draft, name, norm)
        if found:
            return "folded", found
    return "remains", _reason(draft, name, norm)


def _into_weight_in_front(draft: Draft, name: str, norm: Any) -> str:
    """A norm of a layer's outputs becomes part of its weights."""
    before = draft.connections.before(name)
    weight = draft.module(before)
    if before is None or not is_weight(weight) or hasattr(norm, "feature_shape"):
        return ""
    fits = spatial(norm) == max(spatial(weight), 1) and _outputs(weight) == _features(norm)
    given = [layout_of(weight, spatial(weight))]
    if not spatial(weight):
        given = [(*("n" for _ in range(leading)), "f") for leading in LEADING]
    taken = layout_of(norm, spatial(weight))
    _, ways = draft.connections.after(before)
    if not fits or not any(_ends(draft, layout, ways) == {taken} for layout in given):
        return ""
    scale_outputs(weight, *affine(norm))
    draft.replace(name, FoldedNorm(len(taken)))
    return f"into weights of {before}"


def _into_threshold(draft: Draft, name: str, norm: Any) -> str:
    """The norm becomes a sign and a shift, the threshold of the neuron one value a feature."""
    after, ways = draft.connections.after(name)
    theta = None if after is None else _scalable_threshold(draft, after)
    if after is None or theta is None:
        return ""
    own = _layout_in_front_of_neuron(draft, name, norm)
    ends = _ends(draft, own, ways)
    shape = _threshold_shape(ends.pop(), norm) if len(ends) == 1 else None
    if shape is None:
        return ""
    a, d = affine(norm)
    dtype, tokens = norm.running_var.dtype, getattr(norm, "tokens", None)
    a = torch.where(a.abs() < NEGLIGIBLE, torch.zeros_like(a), a)
    size = torch.where(a == 0, torch.ones_like(a), a.abs())
    threshold, shift = (theta / size).to(dtype), (d / size).to(dtype)
    if not bool((threshold.isfinite() & shift.isfinite()).all()):
        return ""
    new = draft.remade(after, v_threshold=threshold.reshape(shape))
    if new is None:
        return ""
    # Tokens are an axis of their own here, channels the one behind.
    column = (-1, 1) if tokens is not None else (-1, *(1 for _ in own[own.index("f") + 1 :]))
    sign = a.sign().reshape(column)
    draft.replace(name, FeatureShift(sign, shift.reshape(column), len(own), tokens))
    draft.replace(after, new)
    return f"into thresholds of {after}"


def _into_weight_behind(draft: Draft, name: str, norm: Any) -> str:
    """A norm of a layer's inputs becomes part of its weights."""
    target, ways = draft.connections.after(name, is_pool)
    weight = draft.module(target)
    if not is_weight(weight) or hasattr(norm, "feature_shape"):
        return ""
    # A one-dimensional norm takes features with or without positions.
    positions = (0, 1) if spatial(norm) == 1 else (spatial(norm),)
    layouts = [layout_of(norm, number) for number in positions if spatial(norm)]
    fitting = [own for own in layouts if _sums_over(weight, _ends(draft, own, ways), norm)]
    if not fitting:
        return ""
    had_grid = has_grid(weight)
    scale_inputs(weight, *affine(norm))
    draft.replace(name, FoldedNorm(*(len(own) for own in fitting)))
    lost = ", which leave their grid" if had_grid and not has_grid(weight) else ""
    return f"into weights of {target}{lost}"


# --- What must hold ---------------------------------------------------------------------------


def _outputs(weight: Any) -> int:
    return len(weight.weight)


def _features(norm: Any) -> int:
    return len(norm.running_var)


def _ends(draft: Draft, layout: Layout, ways: set[Path]) -> set[Layout | None]:
    return {along(layout, way, draft.connections) for way in ways}


def _sums_over(weight: Any, ends: set[Layout | None], norm: Any) -> bool:
    """Whether a norm's features are what a weight layer sums over, at the end of every way."""
    end = ends.pop() if len(ends) == 1 else None
    if end is None:
        return False
    number = spatial(weight)
    fits = end == layout_of(weight, number) if number else end[-1] in ("f", "F")
    return fits and takes_inputs(weight, _features(norm), positions=end[-1] == "F")


def _scalable_threshold(draft: Draft, name: str) -> float | None:
    """A neuron's threshold if it can take a factor: all else in it must scale along."""
    neuron = lif_of(draft.module(name))
    if neuron is None or neuron.v_reset or _shows_potential(draft, name):
        return None
    threshold = neuron.params["v_threshold"]
    return threshold if isinstance(threshold, (int, float)) else None


def _shows_potential(draft: Draft, name: str) -> bool:
    """Whether the model hands on what a neuron returns beside its spikes."""
    module = draft.module(name)
    hidden = getattr(module, "init_hidden", False) and not getattr(module, "output", False)
    if isinstance(module, SpikingLayer) or hasattr(module, "step_mode") or hidden:
        return False
    users = [user for node in draft.connections.calls[name] for user in node.users]
    return any(
        user.op == "output" or (user.target is operator.getitem and user.args[1] != 0)
        for user in users
    )


def _layout_in_front_of_neuron(draft: Draft, name: str, norm: Any) -> Layout:
    """What a norm in front of a neuron takes."""
    if hasattr(norm, "feature_shape"):
        return ("t", "c")
    if spatial(norm) != 1:
        return layout_of(norm, spatial(norm))
    # Other features than a linear layer's outputs are in front of them: [N, tokens, outputs].
    weight = draft.module(draft.connections.before(name))
    is_linear = isinstance(weight, nn.Linear) and _outputs(weight) != _features(norm)
    return layout_of(norm, 1 if is_linear or isinstance(weight, nn.Conv1d) else 0)


def _threshold_shape(layout: Layout | None, norm: Any) -> tuple[int, ...] | None:
    """How the norm's features broadcast against what a neuron sees of one sample."""
    if layout is None or layout[0] != "n":
        return None
    if hasattr(norm, "feature_shape"):
        shape: tuple[int, ...] = tuple(norm.feature_shape)
        return shape if layout[-2:] == ("s", "s") else None
    return (-1, *(1 for _ in layout[layout.index("f") + 1 :])) if "f" in layout else None


def _reason(draft: Draft, name: str, norm: Any) -> str:
    after, _ = draft.connections.after(name)
    weight = draft.module(draft.connections.before(name))
    if after is not None and is_neuron(draft.module(after)):
        return (
            "the neuron behind it does not rest at 0, has thresholds or hooks of its own, hands "
            "on its potential, would need thresholds beyond its dtype, or is not what make makes "
            "(plugins.<host>.make for a host's)"
        )
    if isinstance(weight, (nn.Linear, _ConvNd)) and not is_weight(weight):
        return "the layer in front computes its weights, or has hooks or a forward of its own"
    if is_weight(weight):
        return (
            f"normalises {_features(norm)} features that are not the layer's outputs, "
            f"and no neuron follows: one multiplication a value"
        )
    return "no weight layer or neuron next to it alone can take it"
