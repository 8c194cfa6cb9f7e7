"""Functions written with others, which then have spikes of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from inspect import signature
from typing import Any

import torch
from torch import Tensor

__all__ = ["COMPOSED", "SEVERAL", "SLOPED", "Unknown", "composed"]

# Names of calls with arguments for which their own rule does not hold.
SEVERAL, SLOPED = "einsum of several", "softplus of a slope"


class Unknown(Exception):
    """A call with settings for which there is no rule."""


def composed(name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
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
        # Of numbers that are not negative; torch's has a value for some of the others as well.
        return torch.exp(exponent * torch.log(x))
    roots = {0.5: torch.sqrt, -0.5: torch.rsqrt}
    if exponent in roots:
        return roots[exponent](x)
    if exponent < 0:
        return _pow(torch.reciprocal(x), -exponent)
    whole, rest = divmod(exponent, 1)
    y = _whole_power(x, int(whole)) if whole else None
    if rest:  # of numbers that are not negative: others have no such power
        root = torch.sqrt(x) if rest == 0.5 else torch.exp(rest * torch.log(x))
        y = root if y is None else y * root
    return torch.ones_like(x) if y is None else y


def _whole_power(x: Tensor, exponent: int) -> Tensor:
    """By squares, of which there are few."""
    if exponent == 1:
        return x
    y = torch.square(_whole_power(x, exponent // 2))
    return x * y if exponent % 2 else y


def _div(x: Any, other: Any, rounding_mode: str | None = None) -> Tensor:
    if rounding_mode is not None:
        raise Unknown(f"div with rounding_mode={rounding_mode!r}")
    quotient: Tensor = x * torch.reciprocal(other)
    return quotient


def _elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0, rate: float = 1.0) -> Tensor:
    return scale * (torch.relu(x) + alpha * (torch.exp(-torch.relu(-x) * rate) - 1))


def _logit(x: Tensor, eps: float | None = None) -> Tensor:
    x = x if eps is None else _clamp(x, eps, 1 - eps)
    return torch.log(x) - torch.log(1 - x)


def _logsumexp(x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    largest = x.amax(dim, keepdim=True)
    largest = largest.masked_fill(largest.isinf(), 0.0)
    y = largest + torch.log(torch.exp(x - largest).sum(dim, keepdim=True))
    return y if keepdim else _squeezed(y, dim)


def _squeezed(x: Tensor, dim: Any) -> Tensor:
    return x.squeeze(dim if isinstance(dim, int) else tuple(dim))


def _log_softmax(x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    x = x if dtype is None else x.to(dtype)
    return x - _logsumexp(x, dim, keepdim=True)


def _logaddexp(x: Tensor, y: Tensor) -> Tensor:
    return _logsumexp(torch.stack(torch.broadcast_tensors(x, y)), 0)


def _softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    return torch.nn.functional.softplus(beta * x) / beta


def _sign(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)


def _distances(x: Tensor, y: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    return _norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)


def _pairwise_distance(
    x: Tensor, y: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    return _norm(x - y + eps, p, -1, keepdim)


def _contracted(equation: str, *operands: Any) -> Tensor:
    """An einsum of more than two tensors, one after another."""
    parts, _, output = equation.replace(" ", "").partition("->")
    terms = parts.split(",")
    if "..." in equation or len(terms) != len(operands):
        raise Unknown(f"einsum of {len(operands)} activations by {equation!r}")
    if "->" not in equation:
        output = "".join(sorted(letter for letter in set(parts) if parts.count(letter) == 1))
        output = output.replace(",", "")
    while len(terms) > 2:
        later = set(output).union(*terms[2:])
        kept = "".join(letter for letter in dict.fromkeys(terms[0] + terms[1]) if letter in later)
        both = torch.einsum(f"{terms[0]},{terms[1]}->{kept}", *operands[:2])
        terms, operands = [kept, *terms[2:]], (both, *operands[2:])
    return torch.einsum(f"{','.join(terms)}->{output}", *operands)


def _norm(
    x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Tensor:
    x = x if dtype is None else x.to(dtype)
    axes = tuple(range(x.dim())) if dim is None else dim
    if p in (1, math.inf):
        sizes = torch.relu(x) + torch.relu(-x)
        return sizes.sum(axes, keepdim) if p == 1 else sizes.amax(axes, keepdim)
    if p not in (None, 2, "fro"):
        raise Unknown(f"norm of order {p}")
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
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    axes = tuple(range(x.dim())) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    count = math.prod(x.shape[axis] for axis in axes)
    less = correction if correction is not None else 1 if unbiased in (None, True) else 0
    return torch.square(x - x.mean(axes, True)).sum(axes, keepdim) / (count - less)


def _mean(
    x: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, correction: Any = None
) -> Tensor:
    """What a variance comes with; of its arguments only some matter."""
    axes = tuple(range(x.dim())) if dim is None or isinstance(dim, bool) else dim
    return x.mean(axes, keepdim)


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


COMPOSED: dict[str, Callable[..., Any]] = {
    "abs": lambda x: torch.relu(x) + torch.relu(-x),
    "absolute": lambda x: torch.relu(x) + torch.relu(-x),
    "addcdiv": lambda x, a, b, value=1: x + value * _div(a, b),
    "celu": lambda x, alpha=1.0: _elu(x, alpha, 1.0, 1.0 / alpha),
    "clamp": _clamp,
    "clamp_max": lambda x, high: _clamp(x, None, high),
    "clamp_min": lambda x, low: _clamp(x, low),
    "cdist": _distances,
    "chain_matmul": lambda *matrices: reduce(torch.matmul, matrices),
    "cosh": lambda x: (torch.exp(x) + torch.exp(-x)) / 2,
    "cosine_similarity": _cosine,
    "div": _div,
    "elu": lambda x, alpha=1.0: _elu(x, alpha),
    SEVERAL: _contracted,
    "erfc": lambda x: 1 - torch.erf(x),
    "expm1": lambda x: torch.exp(x) - 1,
    "glu": _glu,
    "group_norm": _group_norm,
    "hardshrink": lambda x, lambd=0.5: torch.where((x > lambd) | (x < -lambd), x, 0.0),
    "hardsigmoid": lambda x: _hardsigmoid(x),
    "hardswish": lambda x: _hardswish(x),
    "hardtanh": lambda x, low=-1.0, high=1.0: _clamp(x, low, high),
    "heaviside": lambda x, values: torch.where(x == 0, values, (x > 0).to(x.dtype)),
    "instance_norm": _instance_norm,
    "leaky_relu": lambda x, slope=0.01: torch.relu(x) - slope * torch.relu(-x),
    "lerp": lambda x, end, weight: x + weight * (end - x),
    "log10": lambda x: torch.log(x) / math.log(10),
    "log1p": lambda x: torch.log(1 + x),
    "log2": lambda x: torch.log(x) / math.log(2),
    "log_softmax": _log_softmax,
    "logaddexp": _logaddexp,
    "logit": _logit,
    "logsumexp": _logsumexp,
    "logsigmoid": lambda x: -torch.nn.functional.softplus(-x),
    "log_sigmoid": lambda x: -torch.nn.functional.softplus(-x),
    "multi_dot": lambda matrices: reduce(torch.matmul, matrices),
    "norm": _norm,
    "normalize": _normalize,
    "pairwise_distance": _pairwise_distance,
    "pow": _pow,
    "prelu": _prelu,
    "rdiv": lambda x, other: _div(other, x),
    "relu6": lambda x: torch.relu(x) - torch.relu(x - 6),
    "rpow": lambda x, base: torch.exp(x * math.log(base)),
    "selu": lambda x: _elu(x, 1.6732632423543772, 1.0507009873554805),
    "sgn": _sign,
    "sign": _sign,
    "sinh": lambda x: (torch.exp(x) - torch.exp(-x)) / 2,
    "softmin": lambda x, dim=None, dtype=None: torch.softmax(-x, dim, dtype),
    SLOPED: _softplus,
    "softshrink": lambda x, lambd=0.5: torch.relu(x - lambd) - torch.relu(-x - lambd),
    "softsign": lambda x: _div(x, 1 + torch.relu(x) + torch.relu(-x)),
    "std": lambda x, *args, **kwargs: torch.sqrt(_variance(x, *args, **kwargs)),
    "std_mean": lambda x, *args, **kwargs: (
        torch.sqrt(_variance(x, *args, **kwargs)),
        _mean(x, *args, **kwargs),
    ),
    "tanhshrink": lambda x: x - torch.tanh(x),
    "threshold": _threshold,
    "var": _variance,
    "var_mean": lambda x, *args, **kwargs: (
        _variance(x, *args, **kwargs),
        _mean(x, *args, **kwargs),
    ),
    "vector_norm": _norm,
    "xlogy": lambda x, y: x * torch.log(y),
}
