"""Weights that ``save_pretrained`` of transformers wrote, in one file or in several."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor, nn

from spikeloom.grid import BUFFERS
from spikeloom.stored import INDEX, files_of

__all__ = ["load_weights"]


def load_weights(network: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Fill a converted model that was built anew; refuse weights that are not all of its own.

    Layers with zeros or codes of compression become as ``compress.finish`` leaves them.

    Args:
        network: With the layers, and ties between weights, of the saved one.
        folder: Where it was saved.

    Raises:
        ValueError: If the folder holds no weights, or others than the model's, or lacks a file that
            its index names.
    """
    from safetensors.torch import load_file

    if (Path(folder) / INDEX).exists():
        files_of(folder, "folder")
    parts = sorted(Path(folder).glob("model*.safetensors"))
    if not parts:
        raise ValueError(f"folder: {os.fspath(folder)} holds no model.safetensors")
    own = network.state_dict()
    unexpected: set[str] = set()
    filled: set[int] = set()
    for part in parts:
        weights = load_file(part)
        _mark(network, weights)
        unexpected.update(network.load_state_dict(weights, strict=False).unexpected_keys)
        # Of tied weights one is saved.
        filled.update(own[name].data_ptr() for name in weights if name in own)
    missing = {name for name, value in own.items() if value.data_ptr() not in filled}
    lost = sorted(unexpected | missing)
    if lost:
        raise ValueError(
            f"folder: the weights do not fit the layers at {', '.join(lost[:3])}; if transformers "
            f"renamed them, save with save_pretrained(..., save_original_format=False)"
        )


def _mark(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give layers the buffers that compression left on the saved ones."""
    layers = dict(network.named_modules())
    for key, value in weights.items():
        path, _, name = key.rpartition(".")
        if name in BUFFERS and path in layers:
            layers[path].register_buffer(name, value)
            layers[path].weight.requires_grad_(False)
