"""Counts and events as input: integers and booleans become floating-point numbers, as in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel.neuron import Parameter, tensor_of

__all__ = ["promoted"]


def promoted(x: Any, params: Callable[[], Mapping[str, Parameter]]) -> Any:
    """An input whose integers and booleans have the dtype that torch's arithmetic gives them.

    They take the dtype of the other inputs, else that of the neuron's tensors, else
    ``torch.get_default_dtype()``. Everything else stays as it is.

    Args:
        x: The input, or a tuple of several.
        params: Returns the neuron's parameters in this call; called for counts only.

    Example:
        >>> import torch
        >>> promoted(torch.tensor([0, 3], dtype=torch.uint8), lambda: {"tau": 2.0})
        tensor([0., 3.])
        >>> tau = torch.tensor(2.0, dtype=torch.float64)
        >>> promoted(torch.tensor([True]), lambda: {"tau": tau}).dtype
        torch.float64
    """
    if isinstance(x, Tensor):
        return x.to(_floating([x], params())) if _counts(x) else x
    if not isinstance(x, tuple) or not any(map(_counts, x)):
        return x
    dtype = _floating(x, params())
    return tuple(part.to(dtype) if _counts(part) else part for part in x)


def _counts(x: object) -> bool:
    return isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex())


def _floating(xs: Iterable[object], params: Mapping[str, Parameter]) -> torch.dtype:
    """The dtype that integers take beside these inputs and parameters."""
    for others in (xs, map(tensor_of, params.values())):
        found = [t.dtype for t in others if isinstance(t, Tensor) and t.is_floating_point()]
        if found:
            dtype, *rest = found
            for other in rest:
                dtype = torch.promote_types(dtype, other)
            return dtype
    return torch.get_default_dtype()
