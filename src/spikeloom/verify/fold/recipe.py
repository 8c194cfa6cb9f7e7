"""fold_norms: batch norm into weights, thresholds and pools, where that is exact."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from spikeloom.hosted import Make, copied, to_rest
from spikeloom.layer import SpikingLayer
from spikeloom.names import check_names
from spikeloom.verify.fold.draft import Draft
from spikeloom.verify.fold.gains import fold_gains
from spikeloom.verify.fold.norms import fold_norm
from spikeloom.verify.fold.pools import fold_pool

__all__ = ["fold_norms"]

Fold = Callable[[Draft, str, Any], tuple[str, str]]

# Norms that compute statistics at inference too; nothing can fold them.
DATA_DEPENDENT = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


def fold_norms(
    model: nn.Module,
    *,
    gains: bool = False,
    make: Make = SpikingLayer,
    keep: Collection[str] = (),
) -> nn.Module:
    r"""A copy of a model whose batch norms are folded away, exactly, where possible.

    With :math:`a = \gamma / \sqrt{\sigma^2 + \epsilon}` and :math:`d = \beta - a \mu`:

    - weight, norm of its outputs: :math:`W' = a W,\; b' = a b + d`;
    - norm of other features (tokens), neuron: :math:`a u + d` meets a threshold :math:`\theta` as
      :math:`\pm u + d/|a|` meets :math:`\theta/|a|`, for a neuron that rests at 0;
    - norm, pools, weight: :math:`W' = W a,\; b' = b + W d`;
    - average pool, weight: the pool becomes a sum, its 1/n part of the weights;
    - with ``gains``, the 1/tau of ``decay_input`` becomes part of the weights in front.

    What follows what is read with torch.fx, arguments of ``forward`` that have a default at that
    default. A module that torch.fx cannot follow (a loop over data, say) is taken to call its
    children and not to reach inside them. Layers with hooks, or with a ``forward`` of their own
    that is not a host's, remain as they are; the potentials of a neuron whose threshold takes a
    norm are in other units. A quantised layer keeps its codes, and its steps take the factor; with
    one factor for each input no step is common to a row, so that the layer loses codes and steps,
    which the report says.

    Args:
        model: In eval mode; any framework's, as long as its layers are torch's, or a host's.
        gains: Fold the neurons' input gain too, if all neurons in the model share it.
        make: Makes the neurons whose threshold or gain changes; ``plugins.<host>.make`` for a
            host's neurons.
        keep: Names of norms and pools that shall not be folded.

    Returns:
        The folded copy, its neurons at rest. Its ``report`` lists every norm and pool, and why one
        remains.

    Raises:
        TypeError: If the model is no module, or ``keep`` is one string.
        ValueError: If the model is in training mode, has no module of a name in ``keep``, or is a
            converted network that keeps a report of its own.

    Example:
        >>> import spikeloom
        >>> from spikeloom.verify import fold_norms
        >>> lif = spikeloom.SpikingLayer(spikeloom.neurons.LIF())
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), lif).eval()
        >>> print(fold_norms(net).report)
        Folded norms
        module  layer        result  why
        ------  -----------  ------  -----------------
        1       BatchNorm1d  folded  into weights of 0
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: must be an nn.Module, got {type(model).__name__}")
    if any(isinstance(module, _BatchNorm) and module.training for module in model.modules()):
        raise ValueError("model: is in training mode, norms still change; call model.eval()")
    if isinstance(getattr(type(model), "report", None), property):
        raise ValueError(
            f"model: a {type(model).__name__} keeps a report of its own, which says nothing of "
            "folded norms; fold norms before the conversion, or in the layers of the converted "
            "network (as_layers())"
        )
    check_names("keep", keep, model)
    draft = Draft(copied("model", model), make)
    to_rest(draft.model)
    if gains:
        fold_gains(draft)
    _fold_all(draft, keep)
    folded: Any = draft.model
    folded.report = draft.report
    return folded


def _fold_all(draft: Draft, keep: Collection[str]) -> None:
    """Every norm, then every average pool, each in the order of the model."""
    folds: tuple[tuple[type, Fold], ...] = (
        (_BatchNorm, fold_norm),
        (nn.modules.pooling._AvgPoolNd, fold_pool),
    )
    for kind, fold in folds:
        for name, module in list(draft.model.named_modules()):
            if isinstance(module, kind):
                asked = ("remains", "as asked")
                result, why = asked if name in keep else fold(draft, name, module)
                draft.report.add(name, type(module).__name__, result, why)
    for name, module in draft.model.named_modules():
        if isinstance(module, DATA_DEPENDENT):
            why = "its mean and variance depend on the sample"
            draft.report.add(name, type(module).__name__, "remains", why)
