"""Models with few-spike neurons: a step carries a complete value instead of a spike.

A few-spike neuron sums its input over time and answers with the K spikes of the sum. So time in
such a model passes within a value, and in a file, which has all K spikes in one step, none is left:
each step carries one value through the whole network. ``by_value`` makes the model compute so.

A layer behind a few-spike neuron adds its bias with each of the K spikes, so for a value its bias
becomes K times as large.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from spikeloom.export.refuse import NotExpressible, Offence, Verdict
from spikeloom.modules import methods_of, neuron_of, takes_steps

__all__ = ["BY_VALUE", "by_value", "decoded", "has_few_spikes"]

BY_VALUE = (
    "Each step of the file carries a complete value: it gives the sum of the spikes that the model "
    "gives for that step alone. Biases are written as often as the model adds them for a value."
)

# What a layer adds with every step, and a normalisation subtracts.
ADDED = ("bias", "running_mean")


def has_few_spikes(model: nn.Module) -> bool:
    """Whether some neuron sums its input over time and answers with spikes."""
    return any(_sums_first(module) for module in model.modules())


def decoded(model: nn.Module, sample: Tensor) -> Tensor:
    """What the model itself makes of each value, summed over its own time.

    Args:
        model: At rest; its neurons' states change.
        sample: Values ``[T, batch, *]``, each of which enters as a sequence of one step.

    Returns:
        ``[T, batch, *]``.

    Raises:
        ValueError: If it answers such a sequence with neither ``[K, batch, *]`` nor ``[batch, *]``.
    """
    count = math.prod(sample.shape[:2])
    with torch.no_grad():
        y = _tensors(model(_as_batch(sample)))[0]
    total = y.sum(0) if y.shape[1:2] == (count,) else y
    if total.shape[:1] != (count,):
        raise ValueError(
            f"model: answers one step of {count} values with {list(y.shape)}; it must return "
            f"[K, batch, *], or [batch, *] summed over K"
        )
    return total.reshape(*sample.shape[:2], *total.shape[1:])


def by_value(fresh: Callable[[], nn.Module], sample: Tensor) -> nn.Module:
    """The model with complete values for spikes: one step in, one step out, none remembered.

    Args:
        fresh: Gives a copy of the model, at rest.
        sample: Values ``[T, batch, *]``.

    Raises:
        NotExpressible: If the model also has neurons that need time.
    """
    model = fresh()
    _require_no_memory(model)
    with torch.no_grad():
        spikes = _elements(fresh(), lambda copy: copy(_as_batch(sample)))
        values = _elements(_patched(fresh()), lambda copy: copy(sample))
    for name, module in model.named_modules():
        times = spikes[name] // values[name] if values[name] else 1
        for key in ADDED:
            added = getattr(module, key, None)
            if isinstance(added, Tensor):
                added.data = added.data * times
    return _patched(model)


def _sums_first(module: nn.Module) -> bool:
    neuron = neuron_of(module)
    return neuron is not None and neuron.begin is not None


def _require_no_memory(model: nn.Module) -> None:
    offences = []
    for name, module in model.named_modules():
        neuron, kind = neuron_of(module), type(module).__name__
        name = name or kind
        if neuron is None:
            continue
        if neuron.begin is None and neuron.rest:
            reason = "it needs time, beside few-spike neurons, whose file has one step for a value"
            offences.append(
                Offence(name, kind, Verdict.UNSUPPORTED, reason, "export the parts one by one")
            )
        elif neuron.begin is not None and takes_steps(module):
            reason = "it sends its spikes one call at a time"
            offences.append(
                Offence(name, kind, Verdict.UNSUPPORTED, reason, "use its form for sequences")
            )
    if offences:
        raise NotExpressible(offences)


def _patched(model: nn.Module) -> nn.Module:
    """Let every few-spike neuron give the sum of its spikes, for each step of its input."""
    for module in model.modules():
        if _sums_first(module):
            for method in methods_of(module):
                setattr(module, method, _summed(getattr(module, method)))
    return model


def _summed(spikes: Callable[..., Any]) -> Callable[..., Any]:
    def sums(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        result = spikes(_as_batch(x), *args, **kwargs)
        first, *rest = result if isinstance(result, tuple) else (result,)
        y = first.sum(0).reshape(x.shape)
        return (y, *rest) if rest else y

    return sums


def _as_batch(x: Tensor) -> Tensor:
    """Values ``[T, batch, *]`` as one step of a larger batch."""
    return x.reshape(1, -1, *x.shape[2:])


def _elements(model: nn.Module, call: Callable[[nn.Module], Any]) -> Counter[str]:
    """How many numbers reach each module."""
    seen = Counter[str]()
    for name, module in model.named_modules():

        def note(module: nn.Module, args: Any, name: str = name) -> None:
            seen[name] += sum(tensor.numel() for tensor in _tensors(args)[:1])

        module.register_forward_pre_hook(note)
    call(model)
    return seen


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
