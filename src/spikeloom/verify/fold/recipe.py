"""fold_norms: batch norm into weights, thresholds and pools, wherever that is exact."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from spikeloom.kernel.neuron import Neuron
from spikeloom.layer import SpikingLayer
from spikeloom.verify.fold.draft import Draft
from spikeloom.verify.fold.gains import fold_gains
from spikeloom.verify.fold.norms import fold_all

__all__ = ["fold_norms"]


def fold_norms(
    model: nn.Module, *, gains: bool = False, make: Callable[[Neuron], nn.Module] = SpikingLayer
) -> nn.Module:
    r"""A copy of a model whose batch norms are folded away, exactly, wherever that is possible.

    With :math:`a = \gamma / \sqrt{\sigma^2 + \epsilon}` and :math:`d = \beta - a \mu`:

    - weight, norm of its outputs: :math:`W' = a W,\; b' = a b + d`;
    - norm of other features (tokens), neuron: :math:`a u + d` meets a threshold :math:`\theta` as
      :math:`\pm u + d/|a|` meets :math:`\theta/|a|`, for a neuron that rests at 0;
    - norm, pools, weight: :math:`W' = W a,\; b' = b + W d`;
    - average pool, weight: the pool becomes a sum, its 1/n part of the weights;
    - with ``gains``, the 1/tau of ``decay_input`` becomes part of the weights in front.

    Args:
        model: In eval mode; any framework's, as long as its layers are, or derive from, torch's.
        gains: Fold the neurons' input gain too, if all neurons in the model share it.
        make: Makes the neurons whose threshold or gain changes, such as ``plugins.<host>.make``.

    Returns:
        The folded copy. Its ``report`` lists every norm and pool, and why one remains.

    Raises:
        TypeError: If the model is no module.
        ValueError: If the model is in training mode.

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
    draft = Draft(copy.deepcopy(model), make)
    if gains:
        fold_gains(draft)
    fold_all(draft)
    folded: Any = draft.model
    folded.report = draft.report
    return folded
