"""Weights that stay in the files of a checkpoint, and are read while their layer computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from spikeloom.weights import Place

__all__ = [
    "in_memory",
    "let_load",
    "on_meta",
    "store",
    "without_place",
]

# The attribute of a parameter on the meta device that says where its values are.
STORED_AT = "spikeloom_stored_at"


def store(network: nn.Module, places: dict[str, Place]) -> None:
    """Say of every parameter on the meta device where its values are; read short ones at once.

    Args:
        network: Built on the meta device.
        places: As :func:`~spikeloom.weights.places_in`.

    Raises:
        ValueError: If a parameter is stored nowhere, or in another shape.
    """
    stored: dict[nn.Parameter, Place | None] = {}
    for name, value in network.named_parameters(remove_duplicate=False):
        stored[value] = places.get(name) or stored.get(value)
    names = {value: name for name, value in network.named_parameters()}
    for value, place in stored.items():
        if place is None:
            raise ValueError(
                f"source: holds no {names[value]}, which the model has; load the model whole, and "
                f"save it with save_pretrained(..., save_original_format=False)"
            )
        place.check_shape(value.shape)
        if value.dim() > 1:
            setattr(value, STORED_AT, place)
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.dim() < 2:
                read = stored[parameter].read().clone()  # type: ignore[union-attr]  # checked above
                module._parameters[name] = nn.Parameter(read, parameter.requires_grad)


def without_place(network: nn.Module) -> list[str]:
    """The names of parameters that are nowhere: on the meta device, and not stored."""
    return [
        name
        for name, value in network.named_parameters()
        if value.is_meta and not hasattr(value, STORED_AT)
    ]


def let_load(network: nn.Module) -> None:
    """Let the layers of a network read their stored weights when they are called.

    Args:
        network: Its layers may be others than those it was built with, if they have its parameters.
    """
    for module in network.modules():
        own = {n: p for n, p in module._parameters.items() if hasattr(p, STORED_AT)}
        if own and not any(isinstance(h, _Reading) for h in module._forward_pre_hooks.values()):
            reading = _Reading(own)  # type: ignore[arg-type]  # not None
            module.register_forward_pre_hook(reading)
            module.register_forward_hook(reading.put_back, always_call=True)


@contextmanager
def in_memory(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Hold the stored weights of some layers in memory while the block runs.

    Args:
        modules: Of a network that :func:`let_load` was called with.
    """
    held = [
        (module, hook)
        for module in modules
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, _Reading)
    ]
    try:
        for module, reading in held:
            reading(module, ())
            reading.is_held = True
        yield
    finally:
        for module, reading in held:
            reading.is_held = False
            reading.put_back(module, (), None)


class _Reading:
    """The hooks of a layer: its weights are there only while it computes."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self.parameters = parameters
        self.is_held = False

    def __call__(self, module: nn.Module, args: Any) -> None:
        if self.is_held:
            return
        with torch._C.DisableTorchFunction():
            for name, parameter in self.parameters.items():
                value = getattr(parameter, STORED_AT).read()
                module._parameters[name] = nn.Parameter(value.to(parameter.dtype), False)

    def put_back(self, module: nn.Module, args: Any, output: Any) -> None:
        """Let go of the weights."""
        if not self.is_held:
            module._parameters.update(self.parameters)


class _Empty(TorchFunctionMode):
    """Lets what is made to be filled have no memory, as the weights of torch's layers."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The function itself."""
        where = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **where})


@contextmanager
def on_meta() -> Iterator[None]:
    """Build modules whose parameters have no values; buffers, which are small, are computed."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, value: nn.Parameter | None) -> None:
        if value is not None and not value.is_meta:
            value = nn.Parameter(value.to("meta"), value.requires_grad)
        register(module, name, value)

    nn.Module.register_parameter = on_meta  # type: ignore[assignment, method-assign]  # put back below
    try:
        with _Empty():
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]  # as it was
