"""The step on torch tensors, one time step after another.

This is the meaning of a neuron: every kernel is tested to equal it. It is also the fallback where
no kernel can run, and it differentiates through torch's own autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.trace import checked_results, checked_states


def scan(
    neuron: Neuron,
    xs: tuple[Tensor, ...],
    state: tuple[Tensor, ...],
    params: dict[str, float | Tensor],
    steps: int,
    dtype: torch.dtype,
) -> tuple[tuple[list[Tensor], ...], tuple[list[Tensor], ...]]:
    """Run a neuron step by step.

    Args:
        neuron: What to run.
        xs: Inputs ``[T, ...]``; ``[1, ...]`` for a neuron with a beginning.
        state: Initial states, in ``dtype``.
        params: Values by name, tensors without their wrappers.
        steps: T.
        dtype: What the step computes in.

    Returns:
        The outputs and the states after each step, a list over time for every one of them.
    """
    device = xs[0].device
    # Tensors throughout, because torch divides by a Python number inexactly on some devices.
    values = {name: torch.as_tensor(v, dtype=dtype, device=device) for name, v in params.items()}
    try:
        return loop(neuron.step, neuron.begin, neuron.kinds, values, xs, state, steps, dtype)
    except Exception as error:
        if neuron.reason:  # it often names the remedy that torch's error lacks
            error.add_note(neuron.reason)
        raise


def loop(
    step: Callable[..., Any],
    begin: Callable[..., Any] | None,
    kinds: Mapping[str, str],
    values: Mapping[str, float | Tensor],
    xs: tuple[Tensor, ...],
    state: tuple[Tensor, ...],
    steps: int,
    dtype: torch.dtype,
) -> tuple[tuple[list[Tensor], ...], tuple[list[Tensor], ...]]:
    """Call a step once for every time step.

    Args:
        step: ``step(x, state, p) -> (y, new_state)``, on tensors.
        begin: ``begin(x, state, p) -> state``, or None.
        kinds: Parameter name -> how it is laid out.
        values: Parameter name -> value.
        xs: Inputs ``[T, ...]``; ``[1, ...]`` with a beginning.
        state: Initial states, in ``dtype``.
        steps: T.
        dtype: What the step computes in.

    Returns:
        The outputs and the states after each step, a list over time for every one of them.
    """
    device, shape = xs[0].device, xs[0].shape[1:]

    def at(t: int) -> _Parameters:
        pick = {"step": lambda v: v[t], "gated": lambda v: v[:, t]}
        return _Parameters(
            {name: pick.get(kinds[name], lambda v: v)(value) for name, value in values.items()}
        )

    def drive(t: int) -> Any:
        now = tuple(x[t].to(dtype) for x in xs)
        return now if len(now) > 1 else now[0]

    def full(who: str, values: Sequence[Any]) -> tuple[Tensor, ...]:
        return tuple(_tensor(who, value, dtype, device).expand(shape) for value in values)

    if begin is not None and steps:
        state = full("begin", checked_states(begin(drive(0), state, at(0)), len(state), "begin"))
    outputs: list[list[Tensor]] = []
    states: list[list[Tensor]] = [[] for _ in state]
    for t in range(steps):
        result = step(None if begin else drive(t), state, at(t))
        ys, following = checked_results(result, len(state))
        for i, value in enumerate(full("step", ys)):
            if i == len(outputs):
                outputs.append([])
            outputs[i].append(value)
        state = full("step", following)
        for history, value in zip(states, state, strict=True):
            history.append(value)
    return tuple(outputs), tuple(states)


class _Parameters:
    """What a step reads ``p.name`` from; torch.compile traces no SimpleNamespace."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            setattr(self, name, value)


def _tensor(who: str, value: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A result of a step, which may be a plain number or a condition; the next finds tensors."""
    if value is None or isinstance(value, (str, complex)):
        kind = type(value).__name__
        raise TypeError(f"{who}: must return tensors and plain numbers, got {kind}")
    return torch.as_tensor(value, dtype=dtype, device=device)
