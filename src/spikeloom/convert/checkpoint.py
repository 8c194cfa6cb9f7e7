"""Weights that ``save_pretrained`` of transformers wrote, in one file or in several."""

from __future__ import annotations

import os

from torch import Tensor, nn

from spikeloom.grid import BUFFERS
from spikeloom.weights import places_in

__all__ = ["load_weights"]


def load_weights(network: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Fill a converted model that was built anew; refuse weights that are not all of its own.

    Layers with zeros or codes of compression become as ``compress.finish`` leaves them.

    Args:
        network: With the layers, and ties between weights, of the saved one.
        folder: Where it was saved.

    Raises:
        ValueError: If the folder holds no weights, or others than the model's, or its index does
            not fit its files.
    """
    places = places_in(folder, "folder")
    own = network.state_dict()
    unexpected: set[str] = set()
    filled: set[int] = set()
    for part in sorted({place.path for place in places.values()}):
        keys = [key for key, place in places.items() if place.path == part]
        for key in keys:
            if key in own:
                places[key].check_shape(own[key].shape, "folder")
        weights = {key: places[key].read("folder") for key in keys}
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
