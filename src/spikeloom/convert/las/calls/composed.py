"""Functions written with others, which then have spikes of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor

__all__ = ["COMPOSED", "Unknown", "composed"]


class Unknown(Exception):
    """A call with settings for which there is no rule."""


def composed(name: str, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """A function, computed by others.

    Args:
        name: One of :data:`COMPOSED`.
        args: Its arguments by position.
        kwargs: Its arguments by name; those that are None are left out.

    Raises:
        Unknown: If its settings have no rule.
    """
    function = COMPOSED[name]
    named = {
        key: value
        for key, value in kwargs.items()
        if value is not None and not key.startswith("_")  # torch's own, as _stacklevel
    }
    try:
        signature(function).bind(*args, **named)
    except TypeError as error:
        raise Unknown(f"{name} ({error})") from None
    return function(*args, **named)


def _clamp(x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    # What is cut off is computed, not what is left: a wide bound costs no precision.
    if high is not None and not _is_infinite(high):
        x = x - torch.relu(x - high)
    if low is not None and not _is_infinite(low):
        x = x + torch.relu(low - x)
    return x


def _is_infinite(bound: Any) -> bool:
    return not isinstance(bound, Tensor) and math.isinf(bound)


def _pow(x: Tensor, exponent: Any) -> Tensor:
    if isinstance(exponent, Tensor):
        exponent = exponent.item() if exponent.numel() == 1 else None
    powers: dict[Any, Callable[[Tensor], Tensor]] = {
        1: lambda x: x,
        2: torch.square,
        3: lambda x: x * torch.square(x),
        4: lambda x: torch.square(torch.square(x)),
        0.5: torch.sqrt,
        -0.5: torch.rsqrt,
        -1: torch.reciprocal,
        -2: lambda x: torch.square(torch.reciprocal(x)),
        1.5: lambda x: x * torch.sqrt(x),
    }
    if exponent not in powers:
        raise Unknown(f"pow with the exponent {exponent}")
    return powers[exponent](x)


def _div(x: Any, other: Any, rounding_mode: str | None = None) -> Tensor:
    if rounding_mode is not None:
        raise Unknown(f"div with rounding_mode={rounding_mode!r}")
    quotient: Tensor = x * torch.reciprocal(other)
    return quotient


def _elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0, rate: float = 1.0) -> Tensor:
    return scale * (torch.relu(x) + alpha * (torch.exp(-torch.relu(-x) * rate) - 1))


def _norm(
    x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Tensor:
    if p not in (None, 2, 2.0, "fro"):
        raise Unknown(f"norm of order {p}")
    x = x if dtype is None else x.to(dtype)
    axes = tuple(range(x.dim())) if dim is None else dim
    return torch.sqrt(torch.square(x).sum(axes, keepdim))


def _normalize(x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    if p != 2:
        raise Unknown(f"normalize of order {p}")
    return x * torch.rsqrt(torch.square(x).sum(dim, True) + eps * eps)


def _cosine(x: Tensor, y: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    return (_normalize(x, dim=dim, eps=eps) * _normalize(y, dim=dim, eps=eps)).sum(dim)


def _variance(
    x: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, correction: Any = None
) -> Tensor:
    axes = tuple(range(x.dim())) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    count = math.prod(x.shape[axis] for axis in axes)
    less = correction if correction is not None else 1 if unbiased in (None, True) else 0
    return torch.square(x - x.mean(axes, True)).sum(axes, keepdim) / (count - less)


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = x.chunk(2, dim)
    return value * torch.sigmoid(gate)


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    slope = weight.reshape(-1, *(1,) * max(0, x.dim() - 2)) if weight.numel() > 1 else weight
    return torch.relu(x) - slope * torch.relu(-x)


def _threshold(x: Tensor, threshold: float, value: float) -> Tensor:
    if threshold != value:
        raise Unknown(f"threshold at {threshold} with the value {value}")
    return threshold + torch.relu(x - threshold)


def _hardswish(x: Tensor) -> Tensor:
    return x * _hardsigmoid(x)


def _hardsigmoid(x: Tensor) -> Tensor:
    return (torch.relu(x + 3) - torch.relu(x - 3)) / 6


def _group_norm(
    x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    rows = x.reshape(len(x), groups, -1)
    y = torch.nn.functional.layer_norm(rows, rows.shape[-1:], None, None, eps).reshape(x.shape)
    shape = (-1, *(1,) * (x.dim() - 2))
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def _instance_norm(
    x: Tensor,
    mean: Any = None,
    variance: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        raise Unknown("instance_norm with running statistics")
    return _group_norm(x, x.shape[1], weight, bias, eps)


COMPOSED: dict[str, Callable[..., Tensor]] = {
    "abs": lambda x: torch.relu(x) + torch.relu(-x),
    "absolute": lambda x: torch.relu(x) + torch.relu(-x),
    "addcdiv": lambda x, a, b, value=1: x + value * _div(a, b),
    "celu": lambda x, alpha=1.0: _elu(x, alpha, 1.0, 1.0 / alpha),
    "clamp": _clamp,
    "clamp_max": lambda x, high: _clamp(x, None, high),
    "clamp_min": lambda x, low: _clamp(x, low),
    "cosine_similarity": _cosine,
    "div": _div,
    "elu": lambda x, alpha=1.0: _elu(x, alpha),
    "expm1": lambda x: torch.exp(x) - 1,
    "fmax": lambda x, y: x + torch.relu(y - x),
    "fmin": lambda x, y: x - torch.relu(x - y),
    "glu": _glu,
    "group_norm": _group_norm,
    "hardsigmoid": lambda x: _hardsigmoid(x),
    "hardswish": lambda x: _hardswish(x),
    "hardtanh": lambda x, low=-1.0, high=1.0: _clamp(x, low, high),
    "instance_norm": _instance_norm,
    "leaky_relu": lambda x, slope=0.01: torch.relu(x) - slope * torch.relu(-x),
    "logsigmoid": lambda x: -torch.nn.functional.softplus(-x),
    "log_sigmoid": lambda x: -torch.nn.functional.softplus(-x),
    "maximum": lambda x, y: x + torch.relu(y - x),
    "minimum": lambda x, y: x - torch.relu(x - y),
    "norm": _norm,
    "normalize": _normalize,
    "pow": _pow,
    "prelu": _prelu,
    "rdiv": lambda x, other: _div(other, x),
    "relu6": lambda x: torch.relu(x) - torch.relu(x - 6),
    "rpow": lambda x, base: torch.exp(x * math.log(base)),
    "selu": lambda x: _elu(x, 1.6732632423543772, 1.0507009873554805),
    "softmin": lambda x, dim=None, dtype=None: torch.softmax(-x, dim, dtype),
    "softshrink": lambda x, width=0.5: torch.relu(x - width) - torch.relu(-x - width),
    "softsign": lambda x: _div(x, 1 + torch.relu(x) + torch.relu(-x)),
    "std": lambda x, *args, **kwargs: torch.sqrt(_variance(x, *args, **kwargs)),
    "tanhshrink": lambda x: x - torch.tanh(x),
    "threshold": _threshold,
    "var": _variance,
    "vector_norm": _norm,
}
