"""Rules with which SpikingJelly's operation counters take signed spikes for spikes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from spikeloom.observe import Effect, meaning_of

__all__ = ["signed_rules"]


def signed_rules(counter: Any) -> dict[Any, Callable[..., int]]:
    """``extra_rules`` that count signed spikes as spikes.

    SpikingJelly takes a tensor for spikes if all of it is 0 or 1, so -1, 0, 1 become
    multiply-accumulates. With these rules a tensor whose values are -a, 0 and a (one a for the
    whole tensor, which the weights can absorb) counts as its spikes' presence.

    Args:
        counter: The class whose rules are extended: ``SynOpCounter``, ``ACCounter`` or
            ``MACCounter``.

    Example:
        >>> import torch
        >>> from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter
        >>> from spikeloom.plugins.spikingjelly import signed_rules
        >>> spikes = torch.tensor([[-1.0, 0.0, 1.0]])
        >>> counter = SynOpCounter(extra_rules=signed_rules(SynOpCounter))
        >>> with DispatchCounterMode([counter]):
        ...     _ = torch.nn.Linear(3, 4)(spikes)
        >>> counter.get_total()
        8
    """
    rules = counter().rules
    return {func: _on_events(func, rule) for func, rule in rules.items() if _spike_places(func)}


def _spike_places(func: Any) -> tuple[int, ...]:
    """Where a product takes spikes: as the left factor; in attention, of batches, on either side.

    Args:
        func: Any operation.
    """
    operation = meaning_of(func)
    if operation is None or operation.effect is not Effect.WEIGHS:
        return ()
    factors: Any = operation.factors
    return factors if "bmm" in operation.name else factors[:1]


def _on_events(func: Any, rule: Callable[..., int]) -> Callable[..., int]:
    places = _spike_places(func)

    def count(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> int:
        events = [_events(value) if place in places else value for place, value in enumerate(args)]
        if all(after is before for after, before in zip(events, args, strict=True)):
            return rule(args, kwargs, out)
        # Coincidences of spikes on both sides are read off the product, so it must be theirs.
        return rule(tuple(events), kwargs, func(*events, **kwargs))

    return count


def _events(x: Tensor) -> Tensor:
    """0 and 1 for a tensor of -a, 0 and a; any other tensor as it is."""
    if not x.numel() or not x.is_floating_point():
        return x
    height = x.abs().max()
    present = x != 0
    if bool((x.abs() == height * present).all()):
        return present.to(x.dtype)
    return x
