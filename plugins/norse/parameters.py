"""Modules that are made from a parameter tuple of Norse's, as Norse's own are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spikeloom.kernel.neuron import Neuron, Parameter, short
from spikeloom.modules import values_of

from ..native import Differs
from .module import SpikeloomSequence, _SpikeloomModule
from .named import make_savable
from .threshold import host_form, surrogate_of

__all__ = [
    "FromParameters",
    "begins_at_leak",
    "cut",
    "native_of",
    "number_of",
    "require_tuple",
    "tuple_of",
]

# How a spike and its derivative are computed; a neuron without a threshold has none of them.
FIRE = ("method", "alpha", "reset_method")


class FromParameters(_SpikeloomModule):
    """A neuron of Norse's: its parameter tuple, its state and its initial potential.

    A subclass names Norse's tuples and the description. A tensor of the tuple that requires grad
    is learned: it becomes a parameter of the module under its field's name (the same object if it
    is a Parameter). Other tensors of one or more dimensions, per neuron, become buffers.

    Args:
        p: Norse's parameters.
        dt: Time step in seconds.
        settings: The arguments of every module.
    """

    _tuple: ClassVar[Any]
    _state: ClassVar[Any]
    # The parameter at which the potential begins, and whether it learns from that.
    _begins_at: ClassVar[str]
    _learns_beginning: ClassVar[bool] = False
    _kind: ClassVar[Callable[..., Neuron]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_state" in vars(cls):
            make_savable(cls._state)

    def __init__(self, p: Any, dt: float, **settings: Any) -> None:
        require_tuple(p, self._tuple)
        values = {name: _owned(name, value) for name, value in _values(p).items()}
        # Apart from the values, because Norse's tuple itself cannot be pickled.
        self._fire = {name: getattr(p, name) for name in p._fields if name in FIRE}
        super().__init__(self._description(values, dt, **self._fire), **settings)
        self.state_type = self._state
        self._dt = number_of(dt)

    @classmethod
    def _description(cls, values: dict[str, Any], dt: Any, **fire: Any) -> Neuron:
        """The neuron of these parameters."""
        if fire:
            values = {**values, "surrogate": surrogate_of(fire["method"], fire["alpha"])}
        return cls._kind(**values, dt=number_of(dt))

    @property
    def p(self) -> Any:
        """Norse's parameter tuple with the values as they are now; read only."""
        values = super().p
        names = (name for name in self._tuple._fields if name not in FIRE)
        return self._tuple(**{name: getattr(values, name) for name in names}, **self._fire)

    @property
    def dt(self) -> float:
        """The time step in seconds."""
        return self._dt

    def extra_repr(self) -> str:
        """Norse's parameters and time step, and the implementation."""
        values = {**self._now().params, **self._fire}
        shown = ", ".join(f"{name}={short(values[name])}" for name in self._tuple._fields)
        return f"p={self._tuple.__name__}({shown}), dt={self.dt}, {self._shown_habits()}"

    def _begins_at_rest(self) -> bool:
        # A potential that is a tensor may have changed since.
        fixed = not isinstance(self.neuron.params[self._begins_at], Tensor)
        return fixed and super()._begins_at_rest()

    def _at_rest(self) -> tuple[float | Tensor, ...]:
        begins = self.neuron.params[self._begins_at]
        if isinstance(begins, Tensor):
            begins = getattr(self, self._begins_at)
            begins = begins if self._learns_beginning else begins.detach()
        return (begins, *list(self.neuron.rest.values())[1:])


def native_of(module: Any, p: Any, cell: Any, sequence: Any, over_time: bool) -> nn.Module:
    """A neuron of Norse's in the place of one of ours.

    Args:
        module: Ours.
        p: Norse's parameters.
        cell: Norse's class for a step.
        sequence: Norse's class over time; None if it has none.
        over_time: Which of the two.

    Raises:
        Differs: If Norse has no class over time.
    """
    dt = module.dt if isinstance(module, FromParameters) else module.neuron.settings().get("dt")
    named = {} if dt is None else {"dt": dt}
    if not over_time:
        return cell(p, **named)
    if sequence is None:
        name = module.neuron.name
        raise Differs(
            f"Norse has no {name} over time; make it with {cell.__name__}, or say cells=True for a "
            f"copy that takes one step at each call"
        )
    made = sequence(p, **named)
    # Some of Norse's classes have no argument for it.
    made.record_states = isinstance(module, SpikeloomSequence) and module.record_states
    return made


def tuple_of(module: Any, kind: Any, **others: Any) -> Any:
    """Norse's parameters of one of our modules.

    Args:
        module: Ours.
        kind: Norse's tuple.
        others: Fields that are no numbers.

    Raises:
        Differs: If Norse has no such threshold method.
    """
    if isinstance(module, FromParameters):
        return module.p
    values = values_of(module)
    found = {name: torch.as_tensor(value) for name, value in values.items() if name in kind._fields}
    if "method" not in kind._fields:
        return kind(**found)
    form = host_form(module.neuron.surrogate)
    if form is None:
        raise Differs(f"Norse has no threshold method {module.neuron.surrogate}")
    return kind(**found, method=form[0], alpha=form[1], **others)


def begins_at_leak(module: Any, neuron: Neuron) -> Parameter:
    """Where the potential of a module begins: at its leak potential."""
    return neuron.params["v_leak"]


def require_tuple(p: Any, kind: Any) -> None:
    """Raise TypeError unless parameters are a tuple of this kind of Norse's."""
    if not isinstance(p, kind):
        raise TypeError(f"p: must be Norse's {kind.__name__}, got {type(p).__name__}")


def number_of(value: Any) -> Any:
    """A tensor of one value as a number, anything else as it is."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def cut(value: Any) -> Any:
    """A tensor outside of its graph, anything else as it is."""
    return value.detach() if isinstance(value, Tensor) else value


def _values(p: Any) -> dict[str, Any]:
    """The values of a parameter tuple.

    Norse's cells begin at their parameters, and let what they begin at require grad, a default that
    all tuples share included. So a default is a constant, whatever has become of it.
    """
    given = {name: getattr(p, name) for name in p._fields if name not in FIRE}
    shared = p._field_defaults
    return {name: cut(v) if v is shared.get(name) else v for name, v in given.items()}


def _owned(name: str, value: Any) -> Any:
    """A value as a module holds it: learned, per neuron or a plain number."""
    if not isinstance(value, Tensor) or isinstance(value, nn.Parameter):
        return value
    if value.requires_grad:
        if not value.is_leaf:
            raise ValueError(
                f"p.{name}: must be a leaf to be learned, got the result of a computation; detach "
                f"it, or call lif_box_feed_forward_step, which differentiates through it"
            )
        return nn.Parameter(value)
    return value if value.dim() else value.item()
