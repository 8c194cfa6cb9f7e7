"""SpikingJelly's surrogate functions, and which of ours they are."""

from __future__ import annotations

from typing import Any

from spikingjelly.activation_based import surrogate as host

from spikeloom.kernel.vocabulary import Surrogate
from spikeloom.neurons import surrogate as ours

# By exact class: a subclass may compute something else.
_OURS = {
    host.ATan: ours.ATan,
    host.Erf: ours.Erf,
    host.PiecewiseExp: ours.PiecewiseExp,
    host.PiecewiseQuadratic: ours.PiecewiseQuadratic,
    host.Rect: ours.Rect,
    host.Sigmoid: ours.Sigmoid,
    host.SoftSign: ours.SoftSign,
    host.SuperSpike: ours.SuperSpike,
}


def kernel_form(function: Any) -> tuple[type, float] | None:
    """The class and alpha of ours that equal a host function; None if only it can compute itself.

    Args:
        function: An instance of a class in ``spikingjelly.activation_based.surrogate``.
    """
    form = _OURS.get(type(function))
    if form is None or not function.spiking or not isinstance(function.alpha, (int, float)):
        return None
    return form, function.alpha


def host_form(surrogate: Any) -> Any:
    """The host's function that equals a surrogate of ours; None if it has none.

    Args:
        surrogate: One of :mod:`spikeloom.neurons.surrogate`, or any other.
    """
    for theirs, form in _OURS.items():
        if type(surrogate) is form:
            return theirs(**vars(surrogate))
    return None


def translated(function: Any) -> Surrogate:
    """Our surrogate for a host's; one of ours is returned as it is.

    Raises:
        TypeError: If the host's function has no counterpart.
    """
    if not isinstance(function, host.SurrogateFunctionBase):
        return function
    form = kernel_form(function)
    if form is None:
        raise TypeError(f"surrogate_function: {no_kernel_form(function)}")
    cls, alpha = form
    return cls(alpha)


def no_kernel_form(function: Any) -> str:
    """Why a function has no counterpart among ours."""
    known = ", ".join(sorted(cls.__name__ for cls in _OURS))
    return f"{function} is not one of {known} with spiking=True and a number as alpha"
