"""Neuron: a step, the states it carries, the parameters it reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel.trace import recording, summing, trace

__all__ = ["Gated", "Neuron", "PerStep"]

Step = Callable[[Any, tuple[Any, ...], Any], tuple[Any, tuple[Any, ...]]]


@dataclass(frozen=True, eq=False)
class PerStep:
    """A parameter that changes with time: one value a step.

    Args:
        values: Shape ``[T]``; a Parameter is learned.
    """

    values: Tensor


@dataclass(frozen=True, eq=False)
class Gated:
    """A table of per-step values, of which each neuron uses one row.

    Args:
        values: Shape ``[G, T]``; read in the step with ``lookup(p.name, row)``. ``[G, 1]`` is the
            same at every step.
    """

    values: Tensor


Parameter = float | Tensor | PerStep | Gated


class Neuron:
    r"""One spiking (or filtering) neuron, described once for every device and framework.

    A neuron is the recurrence

    .. math:: (y[t],\; s[t]) = \mathrm{step}(x[t],\; s[t-1],\; p[t]),\qquad t = 0 \dots T-1

    applied to every element of ``x[t]`` on its own. The step is written in plain arithmetic and
    the words of :mod:`spikeloom.kernel.vocabulary`; it is traced when the neuron is made, and
    the CPU and GPU kernels, forward and backward, come from that trace.

    Args:
        step: ``step(x, state, p) -> (y, new_state)``. ``state`` and ``new_state`` are tuples;
            ``x`` is a tuple when ``inputs > 1``; ``y`` may be a tuple of outputs.
        state: State names, the membrane potential first; a mapping gives each its value at rest
            (default 0).
        params: Parameter name -> value, read as ``p.name``. A float or a 0-d tensor is shared by
            all; a tensor of one or more dimensions is per neuron and broadcasts against
            ``x.shape[1:]``; ``PerStep`` and ``Gated`` change with time. A tensor that requires
            grad is learned.
        begin: ``begin(x, state, p) -> state``. With it, the input is summed over its time axis,
            enters once, and the step (whose ``x`` is then None) runs ``steps`` times.
        steps: Number of steps; only, and always, with ``begin``.
        inputs: How many input sequences the step reads.
        name: Shown by repr and in generated code; by default the step's name.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a parameter is NaN or infinite, or a count is out of range.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.kernel.vocabulary import fire
        >>> def leaky(x, state, p):
        ...     (v,) = state
        ...     h = p.beta * v + x
        ...     s = fire(h - p.threshold)
        ...     return s, (h - s * p.threshold,)
        >>> neuron = spikeloom.Neuron(leaky, params={"beta": 0.5, "threshold": 1.0})
        >>> neuron
        leaky(beta=0.5, threshold=1.0)
        >>> spikes, (v,) = spikeloom.run(neuron, torch.full((4, 1), 0.8))
        >>> spikes.flatten()
        tensor([0., 1., 0., 1.])
    """

    def __init__(
        self,
        step: Step,
        *,
        state: Sequence[str] | Mapping[str, float] = ("v",),
        params: Mapping[str, Parameter] | None = None,
        begin: Callable[[Any, tuple[Any, ...], Any], tuple[Any, ...]] | None = None,
        steps: int | None = None,
        inputs: int = 1,
        name: str | None = None,
    ) -> None:
        if not callable(step):
            raise TypeError(f"step: must be a function, got {type(step).__name__}")
        self.step = step
        self.begin = begin
        self.inputs = _count("inputs", inputs)
        self.name = str(name or getattr(step, "__name__", type(step).__name__))
        self.rest = _rest(state)
        self.params = {} if params is None else _named(params)
        self.steps = None if steps is None else _count("steps", steps)
        if (begin is None) != (steps is None):
            raise ValueError("begin and steps: give both, or neither")
        for state_name, value in self.rest.items():
            _check_number(f"state {state_name!r}", value)
        for argument, parameter in self.params.items():
            _check_parameter(self.name, argument, parameter)
        self.kinds = {argument: kind(parameter) for argument, parameter in self.params.items()}
        self.program: str | None = None
        self.outputs = 1
        self.reason = ""
        self._variants: dict[tuple[str | None, bool], str] = {}
        self._trace()

    def _trace(self) -> None:
        """Set the program's text and its variants, or the reason why the step has no kernel."""
        try:
            program = trace(self.step, len(self.rest), self.kinds, self.inputs, self.begin)
        except (TypeError, ValueError, AttributeError) as error:
            self.reason = f"the step of {self.name} cannot be traced: {error}"
            return
        self.program, self.outputs = program.text, len(program.outputs)
        # All of them now, because torch.compile must find them ready.
        for reduced, base in ((False, program), (True, summing(program))):
            self._variants[None, reduced] = base.text
            for i, state in enumerate(self.rest):
                self._variants[state, reduced] = recording(base, i).text

    def variant(self, record: str | None, reduced: bool) -> str:
        """The program's text with a state recorded, or its outputs summed over time, or both."""
        return self._variants[record, reduced]

    def gradient_scale(self, parameter: str, count: int) -> float:
        """What the gradient of a learned parameter is multiplied by; 1 unless a neuron says so.

        Args:
            parameter: Its name.
            count: How many neurons take part in a step of the call.
        """
        return 1.0

    @property
    def state_names(self) -> tuple[str, ...]:
        """The names of the states, the membrane potential first."""
        return tuple(self.rest)

    def settings(self) -> dict[str, Any]:
        """What repr shows; a neuron class returns its own arguments."""
        return dict(self.params)

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={short(value)}" for key, value in self.settings().items())
        return f"{self.name}({shown})"


def _rest(state: Any) -> dict[str, float]:
    """State name -> value at rest."""
    if isinstance(state, Mapping):
        return dict(state)
    names = [] if isinstance(state, str) else list(state)
    if isinstance(state, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"state: must be names such as ('v',), or name -> value, got {state!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"state: names a state twice, got {state!r}")
    return dict.fromkeys(names, 0.0)


def _named(params: Any) -> dict[str, Parameter]:
    """Parameter name -> value, numbers of any type as Python's."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params: must be name -> value, got {params!r}")
    return {
        name: float(value)
        if isinstance(value, Real) and not isinstance(value, (int, float))
        else value
        for name, value in params.items()
    }


def kind(value: Parameter) -> str:
    """How a parameter is laid out: number, scalar, step, neuron or gated."""
    if isinstance(value, PerStep):
        return "step"
    if isinstance(value, Gated):
        return "gated"
    if isinstance(value, Tensor):
        return "neuron" if value.dim() else "scalar"
    return "number"


def tensor_of(value: Parameter) -> Tensor | None:
    """The tensor inside a parameter; None for a plain number."""
    if isinstance(value, (PerStep, Gated)):
        return value.values
    return value if isinstance(value, Tensor) else None


def _count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: must be at least 1, got {value}")
    return value


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name}: must be finite, got {value}")


def _check_parameter(neuron: str, name: str, value: Any) -> None:
    where = f"{neuron}: parameter {name!r}"
    tensor = tensor_of(value)
    if tensor is None:
        return _check_number(where, value)
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{where}: {type(value).__name__} must hold a tensor, got {tensor!r}")
    expected = {"step": 1, "gated": 2}.get(kind(value))
    if expected is not None and tensor.dim() != expected:
        shape = "[T]" if expected == 1 else "[G, T]"
        raise ValueError(f"{where}: must have shape {shape}, got {list(tensor.shape)}")
    if not tensor.is_floating_point():
        raise TypeError(f"{where}: must be a floating-point tensor, got {tensor.dtype}")
    if tensor.device.type != "meta" and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{where}: must be finite, got NaN or infinity")


def short(value: Any) -> str:
    """A setting for repr: a tensor by its shape, a single value by its digits."""
    tensor = tensor_of(value) if not isinstance(value, (str, type(None))) else None
    if tensor is None:
        return repr(value)
    wrapper = type(value).__name__ if isinstance(value, (PerStep, Gated)) else "tensor"
    learned = ", learned" if tensor.requires_grad else ""
    if tensor.dim() == 0 and tensor.device.type == "cpu":
        return f"{float(tensor.detach()):.6g}{learned and ' (learned)'}"
    return f"{wrapper}({list(tensor.shape)}{learned})"
