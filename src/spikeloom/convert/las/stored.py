"""Weights that stay in the files of a checkpoint, and are read while their layer computes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["INDEX", "Place", "let_load", "places_in", "store", "without_place"]

INDEX = "model.safetensors.index.json"
# The attribute of a parameter on the meta device that says where its values are.
STORED_AT = "las_stored_at"


class Place(NamedTuple):
    """Where a tensor is stored.

    Attributes:
        path: A file of safetensors.
        key: Its name there.
    """

    path: Path
    key: str

    def read(self) -> Tensor:
        """The tensor; its memory is that of the file, and is let go with it."""
        from safetensors import safe_open

        with safe_open(self.path, "pt") as file:
            value: Tensor = file.get_tensor(self.key)
        return value


def places_in(folder: str | os.PathLike[str]) -> dict[str, Place]:
    """The tensors of a checkpoint of transformers.

    Args:
        folder: Holds ``model.safetensors``, or several files and their index.

    Raises:
        ValueError: If it holds neither.
    """
    from safetensors import safe_open

    folder = Path(folder)
    index, whole = folder / INDEX, folder / "model.safetensors"
    if index.exists():
        files = json.loads(index.read_text())["weight_map"]
        return {key: Place(folder / name, key) for key, name in files.items()}
    if not whole.exists():
        raise ValueError(f"source: {folder} holds neither model.safetensors nor {INDEX}")
    with safe_open(whole, "pt") as file:
        return {key: Place(whole, key) for key in file.keys()}  # noqa: SIM118 -- no mapping


def store(network: nn.Module, places: dict[str, Place]) -> None:
    """Say of every parameter on the meta device where its values are; read short ones at once.

    Args:
        network: Built on the meta device.
        places: As :func:`places_in`.

    Raises:
        ValueError: If a parameter is stored nowhere.
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


class _Reading:
    """The hooks of a layer: its weights are there only while it computes."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self.parameters = parameters

    def __call__(self, module: nn.Module, args: Any) -> None:
        with torch._C.DisableTorchFunction():
            for name, parameter in self.parameters.items():
                value = getattr(parameter, STORED_AT).read()
                module._parameters[name] = nn.Parameter(value.to(parameter.dtype), False)

    def put_back(self, module: nn.Module, args: Any, output: Any) -> None:
        """Let go of the weights."""
        module._parameters.update(self.parameters)
