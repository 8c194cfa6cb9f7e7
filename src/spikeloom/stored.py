"""Weights that stay in the files of a checkpoint, and are read while their layer computes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = [
    "INDEX",
    "Place",
    "files_of",
    "in_memory",
    "let_load",
    "on_meta",
    "places_in",
    "store",
    "without_place",
]

INDEX = "model.safetensors.index.json"
# The attribute of a parameter on the meta device that says where its values are.
STORED_AT = "spikeloom_stored_at"


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
        files = files_of(folder, "source")
        return {key: Place(folder / name, key) for key, name in files.items()}
    if not whole.exists():
        raise ValueError(f"source: {folder} holds neither model.safetensors nor {INDEX}")
    with safe_open(whole, "pt") as file:
        return {key: Place(whole, key) for key in file.keys()}  # noqa: SIM118 -- no mapping


def files_of(folder: str | os.PathLike[str], argument: str) -> dict[str, str]:
    """The file of each tensor, as the index of a checkpoint in several files says; all are there.

    Args:
        folder: The checkpoint.
        argument: What errors call it.

    Raises:
        ValueError: If a file is missing.
    """
    files: dict[str, str] = json.loads((Path(folder) / INDEX).read_text())["weight_map"]
    for name in sorted(set(files.values())):
        if not (Path(folder) / name).is_file():
            raise ValueError(
                f"{argument}: {Path(folder) / name} is missing, which {INDEX} names; copy the "
                f"whole checkpoint again"
            )
    return files


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
