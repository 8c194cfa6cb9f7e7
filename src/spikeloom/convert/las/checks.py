"""What must hold before values are encoded: nothing has changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spikeloom.convert.las.sharing import version_of

__all__ = ["check_same", "unchanged"]


@contextmanager
def unchanged(network: nn.Module) -> Iterator[None]:
    """Give a network back, when the block ends, the buffers and plain attributes that it has now.

    A forward may keep a state in them, as the last hidden values.

    Args:
        network: Its modules are the same after the block, or others that bear their names.
    """
    before = {name: _state(module) for name, module in network.named_modules()}
    try:
        yield
    finally:
        for name, module in network.named_modules():
            for attribute, (value, version, copy) in before.get(name, {}).items():
                place = module._buffers if attribute in module._buffers else vars(module)
                is_same = place.get(attribute) is value
                if is_same and (value is None or version_of(value) == version):
                    continue
                if attribute in place:
                    place[attribute] = copy


def _state(module: nn.Module) -> dict[str, tuple[Tensor | None, int | None, Tensor | None]]:
    """A module's buffers, and its attributes that are tensors or nothing yet; with copies."""
    values = {**vars(module), **module._buffers}
    return {
        name: (value, version_of(value), value.clone())
        if isinstance(value, Tensor)
        else (None, None, None)
        for name, value in values.items()
        if value is None or isinstance(value, Tensor)
    }


def check_same(
    expected: dict[str, list[Tensor]], found: dict[str, list[Tensor]], dtype: torch.dtype
) -> None:
    """Refuse a network that computes something else once its layers are replaced.

    Args:
        expected: Outputs of the original's layers, by name; what they lack was replaced as a part
            of something larger.
        found: Those of the replaced layers, before any value is encoded.
        dtype: What they were computed in.

    Raises:
        ValueError: If a layer's output differs by more than rounding, or the original's is NaN or
            infinite.
    """
    # Models of transformers compute some of their layers in float32 whatever their dtype.
    allowed = 4 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps) ** 0.5
    pairs = [
        (name, *pair)
        for name in expected
        for pair in zip(expected[name], found.get(name, ()), strict=False)
    ]
    for name, wanted, given in pairs:
        if not bool(wanted.isfinite().all()):
            raise ValueError(
                f"calibration: {name} of the model itself is NaN or infinite on the first batch"
            )
        distance = float((given - wanted).norm() / wanted.norm().clamp(min=1e-30))
        if not distance <= allowed:
            raise ValueError(
                f"model: with its modules replaced, {name} computes something else, by "
                f"{distance:.1e} of its norm before any value is encoded; a module within looks "
                f"like one that a rule converts, and is not: name it in exclude. Or the model "
                f"answers otherwise each time, by chance or by a state that it keeps: let it not"
            )
