"""Modules of every framework run in one way: from rest, and by what they emit."""

from __future__ import annotations

from typing import Any

from torch import nn

from spikeloom.modules.registry import conventions_of

__all__ = ["output_of", "to_rest"]


def output_of(result: Any) -> Any:
    """What a neuron module emits; some hosts return its state beside it."""
    return result[0] if isinstance(result, tuple) else result


def to_rest(model: nn.Module) -> None:
    """Reset every module that keeps its state.

    A module is put back by the method that its class's conventions name, see
    :func:`spikeloom.modules.register`; classes without conventions are left alone.

    Args:
        model: A neuron, or a model with neurons of any framework.
    """
    for module in model.modules():
        conventions = conventions_of(module)
        if conventions is not None and conventions.reset:
            getattr(module, conventions.reset)()
