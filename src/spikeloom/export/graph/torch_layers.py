"""NIR nodes without a neuron as torch modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["STATELESS", "Delay", "Scale", "State"]

State = tuple[Tensor, ...] | None


class _Stack(nn.Module):
    """A stack of matrices, each applied to its own row of the input."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        y = torch.matmul(self.weight, x.unsqueeze(-1)).squeeze(-1)
        return y if self.bias is None else y + self.bias


class Scale(nn.Module):
    """Multiplies each neuron's signal by a number of its own.

    Args:
        scale: One number for each neuron.
    """

    def __init__(self, scale: nn.Parameter) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        return x * self.scale


def _affine(node: nir.Affine | nir.Linear) -> nn.Module:
    weight = _parameter(node.weight)
    bias = None if isinstance(node, nir.Linear) else _parameter(node.bias)
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise ValueError(f"bias: {list(bias.shape)} does not fit weight {list(weight.shape)}")
    if weight.dim() != 2:
        return _Stack(weight, bias)
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    module.weight = weight
    module.register_parameter("bias", bias)
    return module


def _conv(node: nir.Conv1d | nir.Conv2d) -> nn.Module:
    kind = nn.Conv1d if isinstance(node, nir.Conv1d) else nn.Conv2d
    weight = np.asarray(node.weight)
    module = kind(
        weight.shape[1] * int(node.groups),
        weight.shape[0],
        weight.shape[2:],
        stride=_ints(node.stride),
        padding=node.padding if isinstance(node.padding, str) else _ints(node.padding),
        dilation=_ints(node.dilation),
        groups=int(node.groups),
        device="meta",
    )
    if np.shape(node.bias) != (weight.shape[0],):
        raise ValueError(f"bias: {np.shape(node.bias)} does not fit weight {weight.shape}")
    module.weight, module.bias = _parameter(weight), _parameter(node.bias)
    return module


def _pool(node: nir.AvgPool2d | nir.SumPool2d) -> nn.Module:
    total = 1 if isinstance(node, nir.SumPool2d) else None
    sizes = _ints(node.kernel_size), _ints(node.stride), _ints(node.padding)
    return nn.AvgPool2d(*sizes, divisor_override=total)


def _flatten(node: nir.Flatten) -> nn.Module:
    # NIR counts axes without the batch.
    start, end = (int(dim) + 1 if dim >= 0 else int(dim) for dim in (node.start_dim, node.end_dim))
    return nn.Flatten(start, end)


# Modules without a state; they see time and batch as one axis.
STATELESS: dict[type, Callable[[Any], nn.Module]] = {
    nir.Input: lambda node: nn.Identity(),
    nir.Output: lambda node: nn.Identity(),
    nir.Affine: _affine,
    nir.Linear: _affine,
    nir.Scale: lambda node: Scale(_parameter(node.scale)),
    nir.Conv1d: _conv,
    nir.Conv2d: _conv,
    nir.AvgPool2d: _pool,
    nir.SumPool2d: _pool,
    nir.Flatten: _flatten,
}


class Delay(nn.Module):
    """The input of some steps ago; each neuron has its own delay.

    Args:
        node: States the delays.
        dt: Time step in seconds.
    """

    steps: Tensor

    def __init__(self, node: nir.Delay, dt: float) -> None:
        super().__init__()
        delay = np.asarray(node.delay, dtype=np.float64)
        if not (np.isfinite(delay).all() and (delay >= 0).all()):
            raise ValueError("delay: must be finite and not negative")
        self.register_buffer("steps", torch.from_numpy(np.rint(delay / dt)).long())

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """The delayed input, and what is still on its way."""
        longest = int(self.steps.max()) if self.steps.numel() else 0
        (past,) = state or (x.new_zeros(longest, *x.shape[1:]),)
        known = torch.cat([past, x])
        now = torch.arange(longest, len(known)).reshape(-1, *[1] * (x.dim() - 1))
        y = known.gather(0, (now - self.steps).expand_as(x)) if x.numel() else x
        return y, (known[len(x) :],)


def _parameter(array: Any) -> nn.Parameter:
    array = np.asarray(array)
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise ValueError(f"parameters must be finite numbers, got {array.dtype}")
    # The network rounds once, to its own precision.
    return nn.Parameter(torch.from_numpy(array.astype(np.float64)))


def _ints(value: Any) -> Any:
    values = tuple(int(entry) for entry in np.atleast_1d(value))
    return values if len(values) > 1 else values[0]
