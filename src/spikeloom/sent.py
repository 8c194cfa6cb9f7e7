"""What one process sends to others: as little as it is, and on their devices."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch import Tensor

__all__ = ["packed", "unpacked"]


def packed(value: Any) -> bytes:
    """A value as bytes.

    Of a tensor that is a part of another, only that part; of one on a GPU, the values and the kind
    of device, because the GPU that holds it may be another process's.

    Args:
        value: Whatever can be pickled.
    """
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def unpacked(content: bytes) -> Any:
    """The value that :func:`packed` made bytes of; its tensors are on the devices of this process.

    Args:
        content: From a process that is trusted.
    """
    return pickle.loads(content)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """How tensors are taken apart."""
        if type(value) is not Tensor or value.layout is not torch.strided or value.is_meta:
            return NotImplemented
        is_host = value.device.type == "cpu"
        if is_host and value.untyped_storage().nbytes() == value.nbytes:
            return NotImplemented
        own = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return _placed, (own, value.device.type)


def _placed(value: Tensor, kind: str) -> Tensor:
    return value.to(kind)
