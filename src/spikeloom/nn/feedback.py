"""run_with_feedback: a neuron over time whose second input is what its spikes bring back."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spikeloom.kernel import checked
from spikeloom.kernel.call import COMPUTED, run_step
from spikeloom.kernel.choose import choose
from spikeloom.kernel.feedback import Loop, run_loop
from spikeloom.kernel.lengths import Lengths, ending, steps_left
from spikeloom.kernel.neuron import Neuron, Parameter
from spikeloom.kernel.plain import is_plain
from spikeloom.kernel.plan import plan_for

__all__ = ["THRESHOLD", "checked_weight", "run_with_feedback"]

State = tuple[Tensor, ...]

# The share of neurons that fire up to which weights are added one by one; no clock decides.
THRESHOLD = 0.25


def run_with_feedback(
    neuron: Neuron,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    spikes: Tensor | None = None,
    state: State | None = None,
    *,
    params: dict[str, Parameter] | None = None,
    implementation: str = "auto",
    threshold: float | None = None,
    lengths: Lengths = None,
) -> tuple[Tensor, State]:
    """Run a neuron whose spikes return through a weight at the next step.

    At step t the neuron reads ``x[t]`` and ``weight @ y[t-1] + bias``. With a kernel on a CPU the
    whole sequence is one node of autograd's graph; elsewhere, and while a compiler, a
    transformation, a dispatch mode, a profiler or autocast is active, the steps are taken one by
    one.

    Args:
        neuron: What to run, with two inputs, one output and no parameter that changes with time.
        x: ``[T, *, N]``.
        weight: ``[N, N]``, from the neuron that fired (second axis) to the one that gets it.
        bias: ``[N]``, added at every step, or None.
        spikes: What returns at the first step, ``[*, N]``; None is zeros.
        state: As for :func:`spikeloom.run`.
        params: As for :func:`spikeloom.run`.
        implementation: As for :func:`spikeloom.run`.
        threshold: The share of neurons that fire up to which weights are added one by one; None is
            :data:`THRESHOLD`.
        lengths: As for :func:`spikeloom.run`.

    Returns:
        ``(y, state)``, as :func:`spikeloom.run`.

    Raises:
        TypeError: If a tensor has the wrong dtype or device.
        ValueError: If a shape does not fit, or a state is NaN.
    """
    params = params or {}
    x, _ = checked.inputs(neuron, (x, x), params)
    dtype = COMPUTED[x.dtype]
    if lengths is not None:
        begins = (*checked.states(neuron, state, x, dtype), steps_left(lengths, x))
        y, ends = run_with_feedback(
            ending(neuron),
            x,
            weight,
            bias,
            spikes,
            begins,
            params=params,
            implementation=implementation,
            threshold=threshold,
        )
        return y, ends[:-1]
    _check_shapes(x, weight, bias, spikes)
    name, _ = choose(implementation, x.device, neuron.reason)
    states = checked.states(neuron, state, x, dtype)
    given = [t for t in (x, weight, bias, spikes) if t is not None]
    if name != "llvm" or not x.numel() or torch.is_autocast_enabled("cpu"):
        return _step_by_step(neuron, given, x, weight, bias, spikes, states, params, implementation)
    values = checked.parameters(neuron, params, x[:1], 1, dtype)
    ps = tuple([value for value in values.values() if isinstance(value, Tensor)])
    if not is_plain((*given, *states, *ps)):
        return _step_by_step(neuron, given, x, weight, bias, spikes, states, params, implementation)
    numbers = [value for value in values.values() if not isinstance(value, Tensor)]
    numbers += neuron.surrogate_numbers.values()
    x, weight = x.contiguous(), weight.contiguous()
    bias, spikes = (None if t is None else t.contiguous() for t in (bias, spikes))
    tensors = tuple(t.contiguous() for t in (*states, *ps))
    vs, ps = tensors[: len(states)], tensors[len(states) :]
    plan = plan_for(str(neuron.program), 1, numbers, (x[0], x[0]), vs, ps, single=True)
    threshold = THRESHOLD if threshold is None else threshold
    loop = Loop(plan, threshold, _constant(neuron, x, given, tensors))
    y, *last = run_loop(loop, x, weight, bias, spikes, tensors)
    return y, tuple(last)


def _step_by_step(
    neuron: Neuron,
    given: list[Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    spikes: Tensor | None,
    state: State,
    params: dict[str, Parameter],
    implementation: str,
) -> tuple[Tensor, State]:
    """The same as a loop of torch operations, for autograd and for tracers."""
    y = x.new_zeros(x.shape[1:]) if spikes is None else spikes
    found = []
    for now in x:
        back = F.linear(y, weight, bias).to(x.dtype)
        y, state = run_step(
            neuron, (now, back), state, params=params, implementation=implementation
        )
        found.append(y)
    return (torch.stack(found) if found else x), state


def _constant(neuron: Neuron, x: Tensor, given: list[Tensor], tensors: State) -> tuple[int, ...]:
    """Which results have no gradient."""
    learned = [t.requires_grad for t in tensors]
    # What returns may have a gradient if anything has.
    returns = any(learned) or any(t.requires_grad for t in given)
    found = neuron.differentiable(None, False, [x.requires_grad, returns, *learned])
    return tuple(number for number, has in enumerate(found) if not has)


def checked_weight(name: str, weight: Any) -> Tensor:
    """A recurrent weight, if it is square.

    Args:
        name: Of the argument.
        weight: What a user gave.

    Raises:
        TypeError: If it is no tensor of floating point.
        ValueError: If it is not square.
    """
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise TypeError(
            f"{name}: must be a number of neurons, or a weight [N, N] of floating point, got "
            f"{weight.dtype if isinstance(weight, Tensor) else type(weight).__name__}"
        )
    if weight.dim() != 2 or weight.shape[0] != weight.shape[1]:
        raise ValueError(
            f"{name}: must be square, [N, N], from N neurons back to them, got {list(weight.shape)}"
        )
    return weight


def _check_shapes(x: Tensor, weight: Tensor, bias: Tensor | None, spikes: Tensor | None) -> None:
    """Raise unless these fit to one another."""
    width = weight.shape[0]
    if x.dim() < 2 or x.shape[-1] != width:
        raise ValueError(
            f"x: must be [T, *, {width}] for a weight {list(weight.shape)}, got {list(x.shape)}"
        )
    shapes = {"bias": (bias, (width,)), "spikes": (spikes, tuple(x.shape[1:]))}
    for name, (tensor, shape) in shapes.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: must be {list(shape)}, got {list(tensor.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias), ("spikes", spikes)):
        if tensor is not None and (tensor.device != x.device or _is_other(tensor, x)):
            raise TypeError(
                f"{name}: is {tensor.dtype} on {tensor.device}, the input {x.dtype} on "
                f"{x.device}; convert one of them"
            )


def _is_other(tensor: Tensor, x: Tensor) -> bool:
    """Whether two dtypes differ, and no autocast makes them alike."""
    return tensor.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type)
