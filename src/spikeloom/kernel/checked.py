"""The arguments of a call, checked and fitted to one another."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel.neuron import Gated, Neuron, Parameter, check_form, kind, tensor_of
from spikeloom.kernel.promotion import promoted
from spikeloom.kernel.values import as_float
from spikeloom.kernel.vocabulary import with_grad

__all__ = ["COMPUTED", "inputs", "parameters", "states"]

# The dtype that an input is computed in.
COMPUTED = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
State = tuple[Tensor, ...]


def inputs(neuron: Neuron, xs: State, params: dict[str, Parameter]) -> State:
    """The inputs, counts and events among them as floating-point numbers.

    Args:
        neuron: What is run.
        xs: What a user gave.
        params: Values that replace the neuron's own in this call.

    Raises:
        TypeError: If one has the wrong type, dtype or device.
        ValueError: If a shape does not fit.
    """
    if not isinstance(neuron, Neuron):
        given = (
            f"the class {neuron.__name__}" if isinstance(neuron, type) else type(neuron).__name__
        )
        raise TypeError(
            f"neuron: must be a spikeloom.Neuron such as neurons.LIF(), got {given}; call "
            f"run(neuron, x)"
        )
    if len(xs) != neuron.inputs:
        raise TypeError(f"x: {neuron.name} reads {neuron.inputs} input(s), got {len(xs)}")
    xs = promoted(xs, lambda: {**neuron.params, **params})
    for x in xs:
        if not isinstance(x, Tensor):
            raise TypeError(f"x: must be a tensor [T, ...], got {type(x).__name__}")
        if x.layout is not torch.strided:
            raise TypeError(f"x: must be dense, got {x.layout}; pass x.to_dense()")
        if x.dtype not in COMPUTED:
            raise TypeError(
                f"x: must be float16, bfloat16, float32, float64, integer or bool, got {x.dtype}"
            )
        if x.dim() == 0:
            raise ValueError("x: needs a time axis, [T, ...]; for one step pass x[None]")
        if x.shape != xs[0].shape or x.dtype != xs[0].dtype or x.device != xs[0].device:
            raise ValueError(
                f"x: all inputs need the same shape, dtype and device, got {_describe(x)} "
                f"beside {_describe(xs[0])}"
            )
    return xs


def _describe(x: Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device}"


def parameters(
    neuron: Neuron, given: dict[str, Parameter], x: Tensor, steps: int, dtype: torch.dtype
) -> dict[str, float | Tensor]:
    """The parameters of a call: numbers as they are, tensors checked, converted and expanded.

    Args:
        neuron: What is run.
        given: Values that replace its own in this call.
        x: An input, checked.
        steps: T.
        dtype: What is computed in.

    Raises:
        TypeError: If one has the wrong type, dtype or device.
        ValueError: If a name or a shape does not fit, or a number is out of range.
    """
    given = _checked(neuron, given) if given else given
    values: dict[str, float | Tensor] = {}
    for name, own in neuron.params.items():
        value = given.get(name, own)
        tensor = tensor_of(value)
        if tensor is None:
            values[name] = value  # type: ignore[assignment]  # a number
        else:
            values[name] = _fitted(neuron, name, tensor, x, steps, dtype)
    return values


def _checked(neuron: Neuron, given: dict[str, Parameter]) -> dict[str, Parameter]:
    """Given values, if they can take the places of the neuron's own and numbers are in range."""
    checked: dict[str, Parameter] = {}
    for name, value in given.items():
        if name not in neuron.params:
            raise ValueError(f"params: {neuron.name} has {list(neuron.params)}, got {name!r}")
        own = neuron.params[name]
        checked[name] = value if value is own else _same_kind(neuron, name, value)
    if any(isinstance(value, float) for value in checked.values()):
        values = ((name, checked.get(name, own)) for name, own in neuron.params.items())
        neuron.check_parameters({name: v for name, v in values if isinstance(v, float)})
    return checked


def _same_kind(neuron: Neuron, name: str, value: Any) -> Parameter:
    """A given value, if it can take the place of the neuron's own."""
    where, expected = f"params: {name!r} of {neuron.name}", neuron.kinds[name]
    own = neuron.params[name]
    if expected == "scalar" and isinstance(value, Tensor) and value.shape == (1,):
        value = value.reshape(())  # sharded parameters have a dimension
    if kind(value) != expected:
        remedy = ""
        if expected == "number":
            remedy = f"; make it with a tensor, as in {neuron.name}({name}=torch.tensor({own}))"
        raise ValueError(f"{where} is of kind {expected}, got {kind(value)}{remedy}")
    if expected == "number":
        number = as_float(value)
        if not isinstance(number, float):
            raise TypeError(f"{where} is a number, got {value!r}")
        return number
    check_form(where, value)
    if isinstance(value, Gated) and isinstance(own, Gated):
        rows, found = len(own.values), len(value.values)
        if found != rows:
            raise ValueError(f"{where} has {rows} rows, got {found}")
    return value


def _fitted(
    neuron: Neuron, name: str, tensor: Tensor, x: Tensor, steps: int, dtype: torch.dtype
) -> Tensor:
    """A parameter in the dtype that is computed in, one value for each neuron, step or both."""
    where = f"{neuron.name}: parameter {name!r}"
    if tensor.device != x.device:
        raise TypeError(f"{where} is on {tensor.device}, the input on {x.device}; move one")
    if tensor.dtype != dtype:
        # As in torch, a single value takes the precision of what it meets.
        if tensor.dtype == torch.float64 and tensor.dim():
            raise TypeError(
                f"{where} is float64, the input {x.dtype}; convert the input or the neuron"
            )
        tensor = tensor.to(dtype)
    shape, layout = x.shape[1:], neuron.kinds[name]
    if tensor.requires_grad and not torch.onnx.is_in_onnx_export():  # ONNX has no gradients
        # The product, because numel() would fix a size that a graph leaves open.
        scale = neuron.gradient_scale(name, math.prod(shape))
        tensor = tensor if scale is None else with_grad(tensor, (tensor, scale))
    # To compare sizes would fix those that a graph leaves open; to expand does not.
    if layout == "neuron" and (torch.compiler.is_compiling() or tensor.shape != shape):
        try:
            return tensor.expand(shape)
        except RuntimeError:
            raise ValueError(
                f"{where} has shape {tuple(tensor.shape)}, which does not broadcast to the neurons "
                f"{tuple(shape)}; use e.g. shape [C, 1, 1] for channels"
            ) from None
    if layout == "gated" and tensor.shape[-1] == 1:
        return tensor.expand(-1, steps)
    if layout in ("gated", "step") and tensor.shape[-1] != steps:
        raise ValueError(f"{where} has {tensor.shape[-1]} steps, the sequence has T={steps}")
    return tensor


def states(neuron: Neuron, state: State | None, x: Tensor, dtype: torch.dtype) -> State:
    """The states before the first step; the neuron's own at rest if none are given.

    Args:
        neuron: What is run.
        state: What a user gave.
        x: An input, checked.
        dtype: What is computed in.

    Raises:
        TypeError: If one has the wrong dtype or device.
        ValueError: If a shape does not fit, or it is no tuple of the neuron's states.
    """
    shape = x.shape[1:]
    if state is None:
        return tuple(
            torch.broadcast_to(torch.full((), rest, dtype=dtype, device=x.device), shape)
            for rest in neuron.rest.values()
        )
    if not isinstance(state, tuple) or len(state) != len(neuron.rest):
        raise ValueError(
            f"state: {neuron.name} needs the tuple {neuron.state_names}, got {state!r}"
        )
    for name, value in zip(neuron.state_names, state, strict=True):
        if not isinstance(value, Tensor) or value.shape != shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else value
            raise ValueError(
                f"state {name!r}: must have the neurons' shape {tuple(shape)}, got {got}"
            )
        if value.dtype != dtype or value.device != x.device:
            raise TypeError(
                f"state {name!r}: must be {dtype} on {x.device} for an input of {x.dtype}, "
                f"got {value.dtype} on {value.device}"
            )
    return state
