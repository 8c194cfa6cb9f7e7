"""Keys and values in a cache of transformers: encoded once, when they enter it.

A layer of a cache then holds decoded spikes. It notes for how many tokens, and whose spikes they
are; what it holds beyond is encoded by the next call. Encoding acts on each value alone, so that
nothing changes but the time.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

from spikeloom.convert.las.attention import Attention

__all__ = ["encode_in_cache", "note_cache"]

# What a layer of a cache notes: the code of the attention whose spikes it holds, and of how many
# tokens.
NOTE = "spikeloom_las"


class _Noted(threading.local):
    """The caches that the attention now called in this thread may read."""

    caches: tuple[Any, ...] = ()


_noted = _Noted()


def note_cache(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Note the cache of an attention before the attention adds to it; a forward pre-hook.

    Args:
        module: The attention.
        args: Of its call.
        kwargs: Likewise.
    """
    given = [value for value in (*kwargs.values(), *args) if isinstance(value, Cache)]
    _noted.caches = tuple(part for cache in given for part in _parts(cache))
    for layer in _layers(module):
        whose, count = getattr(layer, NOTE, ("", 0))
        # A cache that was cropped or emptied holds fewer tokens than after its last call.
        setattr(layer, NOTE, (whose, min(count, layer.get_seq_length())))


def encode_in_cache(module: nn.Module, key: Tensor, value: Tensor) -> bool:
    """Encode, in place, what a cache has got of keys and values since its last call.

    Args:
        module: The attention, with its sites in ``las``.
        key: ``[batch, groups, keys, features]``.
        value: Likewise.

    Returns:
        Whether these are the keys and values of a cache, and all of them encoded.
    """
    las: Any = module.las
    layers, _noted.caches = _layers(module), ()
    for layer in layers:
        if layer.keys is key and layer.values is value and las.may_skip(key):
            # The attention's own code calls this, but it is no part of what that code computes.
            with torch._C.DisableTorchFunction():
                _encode(las, layer)
            return True
    return False


def _parts(cache: Any) -> list[Any]:
    if isinstance(cache, EncoderDecoderCache):
        return [cache.self_attention_cache, cache.cross_attention_cache]
    return [cache]


def _layers(module: nn.Module) -> list[Any]:
    """The layers of the noted caches that an attention may read, if they keep every token."""
    index: Any = getattr(module, "layer_idx", None)
    if index is None:
        return []
    return [
        layer
        for cache in _noted.caches
        for layer in cache.layers[index : index + 1]
        if type(layer) is DynamicLayer
    ]


def _encode(las: Attention, layer: Any) -> None:
    (whose, count), code = getattr(layer, NOTE, ("", 0)), las.code
    if whose != code:
        count = 0
    for site, held in ((las.k, layer.keys), (las.v, layer.values)):
        new = held[..., count:, :]
        if new.numel():
            # A cache's own strides change with every token, and plans belong to strides.
            new.copy_(site.decoded(new.contiguous()))
    setattr(layer, NOTE, (code, layer.keys.shape[-2]))
