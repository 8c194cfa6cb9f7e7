"""Neuron: a step, the states it carries, the parameters it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import isfunction
from typing import Any, ClassVar, NoReturn, Self

from torch import Tensor

from spikeloom.kernel.adjoint import reach
from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.trace import trace
from spikeloom.kernel.values import (
    FINITE,
    Rule,
    as_float,
    checked_count,
    checked_number,
    checked_value,
)
from spikeloom.kernel.variants import recording, summing

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

    .. math:: (y[t],\; s[t]) = \mathrm{step}(x[t],\; s[t-1],\; p[t]),\qquad t = 0 \ldots T-1

    applied to every element of ``x[t]`` on its own. The step is written in plain arithmetic and
    the words of :mod:`spikeloom.kernel.vocabulary`; it is traced when the neuron is made, and
    the CPU and GPU kernels, forward and backward, come from that trace. What it is made from
    stays: no public attribute can be set, and :meth:`replace` makes another neuron. Tensors may
    change in place, as an optimiser does it.

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
        ValueError: If a parameter is NaN or infinite or breaks a rule of its class, or a count is
            out of range.
        AttributeError: When a public attribute is set later.

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
        >>> neuron.replace(beta=0.9)
        leaky(beta=0.9, threshold=1.0)
    """

    # A class states here what its parameters keep beyond being finite: name -> rule.
    rules: ClassVar[Mapping[str, Rule]] = Fixed({})
    _made = False

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
        self.inputs = checked_count("inputs", inputs)
        self.name = str(name or getattr(step, "__name__", type(step).__name__))
        self.rest = Fixed(_rest(state))
        self.state_names = tuple(self.rest)
        self.params: Mapping[str, Parameter] = Fixed(_named(params))
        self.steps = None if steps is None else checked_count("steps", steps)
        if (begin is None) != (steps is None):
            raise ValueError("begin and steps: give both, or neither")
        for parameter, value in self.params.items():
            check_form(f"{self.name}: {parameter}", value)
        self.check_parameters(self.params)
        self.kinds = Fixed({parameter: kind(value) for parameter, value in self.params.items()})
        self.tensor_params = tuple(name for name, kind in self.kinds.items() if kind != "number")
        # What a call has found out, for those like it; see spikeloom.kernel.known.
        self.known_calls: dict[Any, Any] = {}
        self.program: str | None = None
        self.outputs = 1
        self.reason = ""
        self._variants: dict[tuple[str | None, bool], str] = {}
        # The numbers of its surrogates, which its kernels get behind those of its parameters.
        self.surrogate_numbers: Mapping[str, float] = {}
        self._reach: tuple[frozenset[int], ...] = ()
        # The same neuron for sequences of different lengths; see spikeloom.kernel.lengths.
        self._ending: Any = None
        self._trace()
        self._made = True

    def __setattr__(self, name: str, value: Any) -> None:
        if self._made and not name.startswith("_"):
            self._refuse(name, f"set to {short(value)}")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if self._made and not name.startswith("_"):
            self._refuse(name, "deleted")
        super().__delattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        # What is known of its calls belongs to this object alone.
        return {**self.__dict__, "known_calls": {}, "_ending": None}

    def _refuse(self, name: str, change: str) -> NoReturn:
        raise AttributeError(
            f"{self.name}: {name} cannot be {change}, because the kernel is made already; make a "
            f"new neuron, for example with neuron.replace(...) (a class of your own sets it before "
            f"it calls super().__init__())"
        )

    def _trace(self) -> None:
        """Set the program's text and its variants, or the reason why the step has no kernel."""
        try:
            program, self.surrogate_numbers = trace(
                self.step, len(self.rest), self.kinds, self.inputs, self.begin
            )
        except (TypeError, ValueError, AttributeError) as error:
            self.reason = f"the step of {self.name} cannot be traced: {error}"
            return
        self.program, self.outputs = program.text, len(program.outputs)
        self._reach = reach(program)
        # All of them now, because torch.compile must find them ready.
        for reduced, base in ((False, program), (True, summing(program))):
            self._variants[None, reduced] = base.text
            for i, state in enumerate(self.rest):
                self._variants[state, reduced] = recording(base, i).text

    def variant(self, record: str | None, reduced: bool) -> str:
        """The program's text with a state recorded, or its outputs summed over time, or both."""
        return self._variants[record, reduced]

    def differentiable(
        self, record: str | None, reduced: bool, learned: Sequence[bool]
    ) -> tuple[bool, ...]:
        """Which results of a variant, outputs first, have a gradient.

        Args:
            record: The state that is recorded.
            reduced: Whether outputs are summed over time.
            learned: Whether a gradient is wanted, for each input, state and parameter that is a
                tensor.
        """
        wanted = {number for number, needed in enumerate(learned) if needed}
        found = [bool(leaves & wanted) for leaves in self._reach]
        outputs, states = found[: self.outputs], found[self.outputs :]
        recorded = [] if record is None else [states[self.state_names.index(record)]]
        if reduced:
            return (*recorded, *states, *outputs)
        return (*outputs, *recorded, *states)

    def gradient_scale(self, parameter: str, count: int) -> float | None:
        """What the gradient of a learned parameter is multiplied by, if a neuron says so.

        Args:
            parameter: Its name.
            count: How many neurons take part in a step of the call; a symbol where a graph with
                an open size is recorded, so a function of it has to be arithmetic.
        """
        return None

    def check_parameters(self, values: Mapping[str, Parameter]) -> None:
        """Raise unless values are finite and in the ranges that this neuron has for them.

        It is asked when the neuron is made, of all parameters, and when a call of
        :func:`spikeloom.run` brings numbers of its own, of all numbers. A class whose ranges are
        more than its ``rules`` say adds to it.

        Args:
            values: Parameter name -> value.

        Raises:
            TypeError: If one is neither a number nor a tensor.
            ValueError: If one is out of range.
        """
        for name, value in values.items():
            tensor = tensor_of(value)
            rule = self.rules.get(name, FINITE)
            checked_value(f"{self.name}: {name}", value if tensor is None else tensor, *rule)

    def settings(self) -> dict[str, Any]:
        """What repr shows; a neuron class returns its own arguments."""
        return dict(self.params)

    def replace(self, **changes: Any) -> Self:
        """A new neuron, the same but for these settings.

        Args:
            changes: The arguments of its class; of a plain Neuron, parameters by name. Tensors
                that are not among them are shared.

        Raises:
            TypeError: If there is no such setting.

        Example:
            >>> from spikeloom.neurons import LIF
            >>> LIF(tau=3.0).replace(v_reset=None)
            LIF(tau=3.0, v_reset=None)
        """
        if type(self) is not Neuron:
            return type(self)(**{**self.settings(), **changes})
        if unknown := changes.keys() - self.params.keys():
            raise TypeError(f"replace: {self.name} has {[*self.params]}, got {sorted(unknown)}")
        return type(self)(
            self.step,
            state=self.rest,
            params={**self.params, **changes},
            begin=self.begin,
            steps=self.steps,
            inputs=self.inputs,
            name=self.name,
        )

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={short(value)}" for key, value in self.settings().items())
        return f"{self.name}({shown})"


def _rest(state: Any) -> dict[str, float]:
    """State name -> value at rest."""
    if isinstance(state, Mapping):
        return {name: checked_number(f"state {name!r}:", rest) for name, rest in state.items()}
    names = [] if isinstance(state, str) else list(state)
    if isinstance(state, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"state: must be names such as ('v',), or name -> value, got {state!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"state: names a state twice, got {state!r}")
    return dict.fromkeys(names, 0.0)


def _named(params: Any) -> dict[str, Parameter]:
    """Parameter name -> value, numbers of any type as Python's."""
    if params is None:
        return {}
    if not isinstance(params, Mapping):
        raise TypeError(f"params: must be name -> value, got {params!r}")
    return {name: as_float(value) for name, value in params.items()}


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


def check_form(where: str, value: Any) -> None:
    """Raise unless a tensor is of floating point, and ``[T]`` or ``[G, T]`` where it must be.

    Args:
        where: The parameter, for errors.
        value: Its value.
    """
    tensor = tensor_of(value)
    if tensor is None:
        return
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{where}: {type(value).__name__} must hold a tensor, got {tensor!r}")
    expected = {"step": 1, "gated": 2}.get(kind(value))
    if expected is not None and tensor.dim() != expected:
        shape = "[T]" if expected == 1 else "[G, T]"
        raise ValueError(f"{where} must have shape {shape}, got {list(tensor.shape)}")
    if not tensor.is_floating_point():
        raise TypeError(f"{where} must be a floating-point tensor, got {tensor.dtype}")


def short(value: Any) -> str:
    """A setting for repr: a tensor by its shape, a single value by its digits."""
    if isfunction(value):
        return value.__name__
    tensor = tensor_of(value) if not isinstance(value, (str, type(None))) else None
    if tensor is None:
        return repr(value)
    wrapper = type(value).__name__ if isinstance(value, (PerStep, Gated)) else "tensor"
    learned = ", learned" if tensor.requires_grad else ""
    if tensor.dim() == 0 and tensor.device.type == "cpu":
        return f"{float(tensor.detach()):.6g}{learned and ' (learned)'}"
    return f"{wrapper}({list(tensor.shape)}{learned})"
