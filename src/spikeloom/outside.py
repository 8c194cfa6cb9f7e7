"""How values leave torch: what hands out a tensor's memory, or a copy of it, past its operations.

Whoever follows values through torch's operations loses them there.
"""

from __future__ import annotations

__all__ = ["LEAVING"]

# Methods of torch.Tensor.
LEAVING = frozenset(
    (
        *("numpy", "tolist", "__array__", "__dlpack__", "__cuda_array_interface__", "data_ptr"),
        *("untyped_storage", "storage", "_typed_storage", "share_memory_", "__reduce_ex__"),
        *("apply_", "map_", "map2_"),
    )
)
