"""Which spiking call takes the place of a call of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from spikeloom.convert.las.calls.composed import Unknown
from spikeloom.convert.las.calls.kinds import (
    AttentionCall,
    Function,
    Magnitude,
    NormCall,
    Product,
    SoftmaxCall,
)
from spikeloom.convert.las.calls.labels import Activations
from spikeloom.neurons.range_reduction import MANTISSAS
from spikeloom.neurons.tables import FUNCTIONS
from spikeloom.observe import meaning_of

__all__ = ["spiking_call"]

# Products of elements: with a constant they are a scale, as those of norms and positions.
ELEMENTWISE = ("mul", "addcmul")


def spiking_call(
    name: str, args: list[Any], kwargs: dict[str, Any], known: Activations
) -> nn.Module | None:
    """A new spiking call; None if spikes pass the call as it is.

    Args:
        name: What is called.
        args: Its arguments by position.
        kwargs: Its arguments by name.
        known: The activations of the run.

    Raises:
        Unknown: If there is none.
    """
    if positions(name, args):
        axes = factors(name, args, known)
        return Product(axes) if axes else None
    if name in CHOICES:
        return CHOICES[name](args, kwargs)
    if name in MANTISSAS:
        return Magnitude(name)
    if name in FUNCTIONS:
        return Function(name)
    raise Unknown(name)


def positions(name: str, args: list[Any]) -> list[int]:
    """Where the factors of a product stand; nowhere if it is none."""
    operation = meaning_of(name)
    if operation is None or operation.is_partial:
        return []
    return [place for place in range(len(args)) if place in operation.factors]


def factors(name: str, args: list[Any], known: Activations) -> dict[int, int | None]:
    """The factors that are activations, each with its axis of features."""
    active = [place for place in positions(name, args) if args[place] in known]
    if name in ELEMENTWISE and len(active) < 2:
        return {}
    if len(active) > 2:
        raise Unknown(f"{name} of {len(active)} activations")
    found = {place: _axis(name, place, args, len(active) == 1) for place in active}
    # What spikes of a table add up to needs no others.
    rest = {place: axis for place, axis in found.items() if not known.is_fired(args[place])}
    return rest or found


def _axis(name: str, place: int, args: list[Any], alone: bool) -> int | None:
    """The axis of a factor whose features have ranges of their own, counted from the end."""
    if name in ELEMENTWISE:
        return -1 if args[place].dim() else None
    return _features(name, place, args) if alone else None


def _features(name: str, place: int, args: list[Any]) -> int | None:
    """The axis of features of an activation that weights multiply, counted from the end."""
    if place != positions(name, args)[0] or name == "einsum":
        return None
    return -(args[1].dim() - 1) if name.startswith("conv") else -1


def _gelu(args: list[Any], kwargs: dict[str, Any]) -> nn.Module:
    return Function("gelu_tanh" if kwargs.get("approximate") == "tanh" else "gelu")


def _layer_norm(args: list[Any], kwargs: dict[str, Any]) -> nn.Module:
    eps = kwargs.get("eps", args[4] if len(args) > 4 else 1e-5)
    return _norm(True, float(eps), args, kwargs)


def _rms_norm(args: list[Any], kwargs: dict[str, Any]) -> nn.Module:
    eps = kwargs.get("eps", args[3] if len(args) > 3 else None)
    return _norm(False, eps, args, kwargs)


def _norm(centred: bool, eps: float | None, args: list[Any], kwargs: dict[str, Any]) -> nn.Module:
    axes = len(args[1]) if isinstance(args[1], Sequence) else 1
    weight = kwargs.get("weight", args[2] if len(args) > 2 else None)
    return NormCall(centred, eps, axes == 1 and isinstance(weight, Tensor), axes)


def _batch_norm(args: list[Any], kwargs: dict[str, Any]) -> None:
    if kwargs.get("training", args[5] if len(args) > 5 else False):
        raise Unknown("batch_norm with the statistics of the batch")


CHOICES: dict[str, Callable[[list[Any], dict[str, Any]], nn.Module | None]] = {
    "batch_norm": _batch_norm,
    "gelu": _gelu,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "scaled_dot_product_attention": lambda args, kwargs: AttentionCall(args[0].dim() == 4),
    "softmax": lambda args, kwargs: SoftmaxCall(),
}
