"""The proof that a module is what its description says: it is run beside it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.kernel.call import run
from spikeloom.kernel.neuron import Gated, Neuron, Parameter, PerStep
from spikeloom.modules.conventions import carried
from spikeloom.modules.identity import values_of
from spikeloom.modules.registry import registered
from spikeloom.modules.rest import output_of, to_rest

__all__ = ["why_unlike", "why_unregistered"]

STEPS, BATCH, FEATURES = 3, 2, 64


def why_unlike(
    module: nn.Module, neuron: Neuron, values: Mapping[str, Parameter] | None = None
) -> str:
    """Why a module does not answer two sequences, one after the other, as its neuron does.

    A copy without hooks is run, so that the module stays as it is.

    Args:
        module: A module that should take whole sequences, time first, from rest.
        neuron: What it should compute.
        values: The neuron's parameters as they are now; None: as it was made.

    Returns:
        Words that follow the module's name, with the remedy; empty if it does. A neuron that
        reads several inputs, or that cannot be run on arbitrary numbers, is taken on trust.
    """
    if neuron.inputs != 1:
        return ""
    twin, kind = _twin(module), type(module).__name__
    like = next((t for t in _tensors(module) if t.is_floating_point()), torch.empty(()))
    if like.is_meta:
        return ""  # nothing can be run there
    params = {name: _moved(value, like) for name, value in (values or neuron.params).items()}
    x = _drive(params).to(like)
    with torch.no_grad():
        try:
            expected, _ = run(neuron, x, params=params)
        except (RuntimeError, ValueError, TypeError):
            return ""
        if not _answers(twin, x, expected):
            return (
                f"does not answer a sequence [T, batch, *] from rest as spikeloom.run(neuron, x) "
                f"does; if it takes other axes, say so: "
                f"spikeloom.modules.register({kind}, Conventions(batch_first=...))"
            )
        if not _answers(twin, x, expected):
            return (
                f"keeps its state from its last call, and how it is reset is not known; say so: "
                f"spikeloom.modules.register({kind}, Conventions(reset='name of its method'))"
            )
    return ""


def why_unregistered(module: nn.Module) -> str:
    """Why a module of an unregistered class cannot be taken for the neuron that it holds.

    Args:
        module: Any module.

    Returns:
        Words that follow the module's name; empty if it can, or its class is registered.
    """
    neuron = carried(module)
    if neuron is None or registered(type(module)) is not None:
        return ""
    return why_unlike(module, neuron, values_of(module))


def _tensors(module: nn.Module) -> tuple[Tensor, ...]:
    return (*module.parameters(), *module.buffers())


def _twin(module: nn.Module) -> Any:
    """A copy with states of its own that shares all tensors, run by whatever runs here."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in _tensors(module)}
    twin: Any = copy.deepcopy(module, shared)
    if isinstance(getattr(twin, "implementation", None), str):
        twin.implementation = "auto"
    return twin


def _answers(twin: Any, x: Tensor, expected: Any) -> bool:
    to_rest(twin)
    try:
        y = output_of(twin.forward(x))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return (
        isinstance(y, Tensor)
        and y.shape == expected.shape
        and torch.allclose(y, expected.to(y.dtype), rtol=1e-4, atol=1e-5, equal_nan=True)
    )


def _moved(value: Parameter, like: Tensor) -> Parameter:
    if isinstance(value, (PerStep, Gated)):
        return dataclasses.replace(value, values=value.values.to(like))
    return value.to(like) if isinstance(value, Tensor) else value


def _drive(params: dict[str, Parameter]) -> Tensor:
    """Input ``[T, batch, *]`` of all strengths, for as many neurons as the parameters are for."""
    shapes = [v.shape for v in params.values() if isinstance(v, Tensor) and v.dim()]
    shape = torch.broadcast_shapes(*shapes) if shapes else torch.Size([1])
    if shape[-1] == 1:
        shape = torch.Size((*shape[:-1], FEATURES))
    clocks = [v.values.shape[-1] for v in params.values() if isinstance(v, (PerStep, Gated))]
    steps = max((count for count in clocks if count > 1), default=STEPS)
    generator = torch.Generator().manual_seed(0)
    strengths = 2.0 ** (14 * torch.rand(steps, BATCH, *shape, generator=generator) - 6)
    signs = torch.where(torch.rand(strengths.shape, generator=generator) < 0.25, -1.0, 1.0)
    return strengths * signs
