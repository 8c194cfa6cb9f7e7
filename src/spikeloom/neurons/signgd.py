"""Sign gradient descent neurons: any function, one bit a step.

The neuron holds an estimate ``y`` of ``f(x)``. At each step it sends one bit, whether ``y`` lies
above ``f(x)``, and moves ``y`` by the step size ``eta(t)``: down if it does, up if it does not.
Receivers know the same steps, so they rebuild ``y`` exactly. **A 0 is no silence: it means
"+eta"**, and about half of all bits are 1, whatever the activity.

Source: Oh & Lee, "Sign Gradient Descent-based Neuronal Dynamics: ANN-to-SNN Conversion Beyond ReLU
Network", ICML 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.neuron import Gated, Neuron, Parameter, PerStep
from spikeloom.kernel.values import POSITIVE, checked_count
from spikeloom.kernel.vocabulary import detach, lookup, minimum, where, with_grad, with_nan
from spikeloom.neurons.described import Described, Variant
from spikeloom.neurons.forms import Constants, Descent
from spikeloom.neurons.schedules import Constant, Exponential, Schedule, as_schedule
from spikeloom.neurons.signgd_functions import Function, as_function
from spikeloom.neurons.trace import Response

__all__ = ["LONGEST", "AnalogEncoder", "SignGD", "SignGDBits", "SignTracker"]

# How many steps a formula's table holds.
LONGEST = 1024

State = tuple[Any, ...]


class _Scheduled(Described):
    """A neuron whose last state counts the steps, and reads its step size from a table."""

    # All settings: what an estimate can reach depends on each of them.
    __repr__ = Neuron.__repr__

    def __init__(
        self,
        states: tuple[str, ...],
        schedule: Schedule | Sequence[float],
        params: dict[str, Parameter],
        inputs: int = 1,
    ) -> None:
        self.schedule = as_schedule(schedule)
        etas = self.schedule.steps(LONGEST)
        self.length = len(etas)
        table = Gated(torch.tensor(etas, dtype=torch.float64).float()[:, None])
        super().__init__(
            self._step,
            state=(*states, "t"),
            params={**params, "eta": table},
            inputs=inputs,
            name=type(self).__name__,
        )

    def _step(self, x: Any, state: State, p: Any) -> tuple[Any, State]:
        raise NotImplementedError

    def _eta(self, t: Any, p: Any) -> Any:
        """The size of this step; NaN, which no run passes over, after the last one."""
        beyond = where(t < self.length, 0.0 * t, (t - t) / (t - t))
        return lookup(p.eta, minimum(t, self.length - 1.0)) + beyond


class SignGD(_Scheduled):
    r"""Sign gradient descent on a function's value, in increments.

    Input and output are increments: what arrives is summed into ``x``, what leaves are the moves
    of the estimate ``y``. Affine layers between two neurons stay as they are, except that their
    bias enters with the first increment only.

    .. math::
        x(t) &= x(t-1) + \mathrm{input}(t) \\
        s(t) &= [\,y(t-1) > f(x(t))\,] \\
        y(t) &= y(t-1) - c\,\eta(t)\,(2 s(t) - 1)

    The output is ``y(t) - y(t-1)``; summed over time it is the estimate. On a tie the bit is the
    function's own (ReLU, square, exp and multiply send 1, the others 0). Gradients pass straight
    through: the summed output differentiates as f(x).

    Args:
        function: ``"relu"``, ``"leaky_relu"``, ``"gelu"`` (erf), ``"gelu_sigmoid"`` (1.702),
            ``"gelu_tanh"``, ``"silu"``, ``"sigmoid"``, ``"tanh"``, ``"elu"``, ``"softplus"``,
            ``"abs"``, ``"square"``, ``"exp"``, ``"sqrt"`` (0 for negative x), ``"reciprocal"``,
            ``"identity"``; of two operands ``"maximum"``, ``"multiply"``, ``"divide"``,
            ``"mul_inverse_sqrt"``; or a function of your own in the words of
            :mod:`spikeloom.kernel.vocabulary`, to which
            :func:`~spikeloom.neurons.signgd_functions.register` gives a name.
        schedule: :class:`Exponential`, :class:`Inverse`, :class:`Constant`, or a sequence of step
            sizes.
        scale: c, positive; a number, or a tensor with a value for each neuron. Values beyond
            ``scale * schedule.reach(T)`` cannot be represented.
        constants: ``negative_slope`` of leaky_relu, 0.01 by default, ``alpha`` of elu and ``beta``
            of softplus, both 1, or those of a function of your own.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a name is unknown or a value is out of range. When run: past the last step
            of the schedule (1024 for a formula) the estimate becomes NaN, which is refused.

    State: ``x`` (``x1`` and ``x2`` with two operands), ``y``, and ``t``, the steps done.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.neurons import Exponential, SignGD
        >>> neuron = SignGD("square", Exponential(1.0, 0.7))
        >>> x = torch.zeros(16, 1)
        >>> x[0] = 1.5
        >>> moves, (_, y, _) = spikeloom.run(neuron, x)
        >>> moves[:4].flatten(), y
        (tensor([1.0000, 0.7000, 0.4900, 0.3430]), tensor([2.2473]))
    """

    rules = Fixed({"scale": POSITIVE})

    def __init__(
        self,
        function: str | Callable[..., Any] | Function = "relu",
        schedule: Schedule | Sequence[float] = Exponential(),
        scale: float | Tensor = 1.0,
        **constants: float | None,
    ) -> None:
        self.constants = _given(**constants)
        self._asked, self.function = function, as_function(function, **self.constants)
        super().__init__(
            (*_operand_names(self.function), "y"),
            schedule,
            {"scale": scale},
            self.function.operands,
        )

    def _step(self, x: Any, state: State, p: Any) -> tuple[Any, State]:
        *before, y, t = state
        arriving = x if self.inputs > 1 else (x,)
        operands = tuple(a + b for a, b in zip(before, arriving, strict=True))
        step = p.scale * self._eta(t, p)
        move = where(self.function.is_above(y, *operands), -step, step)
        move = with_nan(move, y, *operands)
        move = with_grad(move, (self.function.value(*operands) - y, 1.0))
        return move, (*operands, y + move, t + 1.0)

    def form(self, values: Constants) -> Descent:
        """An estimate that receives and sends increments."""
        slopes, strict = self.function.slopes(), self.function.strict
        return Descent(slopes, self.schedule, values["scale"], strict, sums=True)

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """Kinds of functions and of schedules."""
        yield Variant("ReLU, constant steps", cls("relu", Constant(0.25)))
        yield Variant("ReLU, shrinking steps", cls("relu", Exponential(1.0, 0.7)), steps=8)
        yield Variant("leaky ReLU, table", cls("leaky_relu", [0.5] * 20 + [0.25] * 30))
        yield Variant("GELU", cls("gelu"))

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {
            "function": self._asked,
            "schedule": self.schedule,
            "scale": self.params["scale"],
            **self.constants,
        }


class SignGDBits(_Scheduled):
    r"""The same dynamics with bits on the wires, as published; hardware sends these.

    The input is the current that the unmodified affine layers make of bits, bias included. What
    all-zero and all-one bits would cause is known beforehand and taken off:

    .. math::
        g(t) &= 2 I(t) - O,\qquad x(t) = x(t-1) - \eta(t)\,g(t),\qquad x(0) = b \\
        s(t) &= [\,y(t-1) > f(x(t))\,],\qquad y(t) = y(t-1) - \eta(t)\,(2 s(t) - 1)

    with ``b`` the current of all-zero bits and ``O`` that of all-zero plus that of all-one bits.
    Multiplications and additions are rounded in the published order.

    Args:
        bias: b; a number or a tensor with a value for each neuron, a pair for two operands.
        offset: O, likewise.
        function: As for :class:`SignGD`.
        schedule: As for :class:`SignGD`.
        constants: As for :class:`SignGD`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: As :class:`SignGD`.

    State: ``x`` (``x1`` and ``x2``), ``y``, and ``t``, the steps done.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.neurons import SignGDBits
        >>> bits = torch.tensor([0.0, 0.0, 1.0, 0.0])[:, None]
        >>> neuron = SignGDBits(bias=0.0, offset=1.0, function="relu", schedule=[0.5] * 4)
        >>> spikes, (x, y, _) = spikeloom.run(neuron, bits)
        >>> spikes.flatten(), x, y
        (tensor([0., 0., 1., 0.]), tensor([1.]), tensor([1.]))
    """

    def __init__(
        self,
        bias: float | Tensor | tuple[float | Tensor, ...],
        offset: float | Tensor | tuple[float | Tensor, ...],
        function: str | Callable[..., Any] | Function = "relu",
        schedule: Schedule | Sequence[float] = Exponential(),
        **constants: float | None,
    ) -> None:
        self.constants = _given(**constants)
        self._asked, self.function = function, as_function(function, **self.constants)
        names = _operand_names(self.function)
        self._given: dict[str, Any] = {"bias": bias, "offset": offset}
        params: dict[str, Parameter] = {}
        for word, value in self._given.items():
            values = value if isinstance(value, tuple) else (value,)
            if len(values) != len(names):
                raise ValueError(
                    f"{word}: {self.function.name} has {len(names)} operand(s), got {len(values)} "
                    f"value(s)"
                )
            params |= {f"{word}_{name}": part for name, part in zip(names, values, strict=True)}
        super().__init__((*names, "y"), schedule, params, self.function.operands)

    def _step(self, x: Any, state: State, p: Any) -> tuple[Any, State]:
        *before, y, t = state
        currents = x if self.inputs > 1 else (x,)
        eta = self._eta(t, p)
        operands = []
        for name, was, current in zip(self.state_names, before, currents, strict=False):
            start = where(t < 1.0, getattr(p, f"bias_{name}") + 0.0 * was, was)
            operands.append(start - eta * (2.0 * current - getattr(p, f"offset_{name}")))
        above = self.function.is_above(y, *operands)
        s = with_nan(where(above, 1.0, 0.0), y, *operands)
        return s, (*operands, y - eta * (2.0 * s - 1.0), t + 1.0)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {
            **self._given,
            "function": self._asked,
            "schedule": self.schedule,
            **self.constants,
        }


class SignTracker(Described):
    r"""Follows a target that is known at every step: the sequential part of a converted network.

    .. math::
        y(t) = y(t-1) - c\,\eta(t)\,(2\,[\,y(t-1) > f(x(t))\,] - 1)

    The output is ``y(t)``. By default f is the identity and the input is the target, whatever
    computed it (an activation, a max-pool, a LayerNorm, a whole attention product). Over a
    sequence of a converted network all targets of a layer are computed at once, and this is all
    that remains to be done in order.

    Args:
        schedule: As for :class:`SignGD`.
        steps: How many of its steps; every sequence has as many.
        scale: c, as for :class:`SignGD`.
        strict: On a tie move up if strict, else down.
        function: f, a function of one operand as for :class:`SignGD`; its own tie rule does not
            count.
        undefined: True: a target may be NaN for some steps, as the square root of an estimate that
            is still negative, and the estimate then moves up. False: a target that is NaN or
            infinite makes the estimate NaN.
        constants: ``negative_slope`` of leaky_relu, 0.01 by default, ``alpha`` of elu and ``beta``
            of softplus, both 1, or those of a function of your own.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range, the schedule has fewer steps, or the function has
            two operands. When run: if a target is NaN or infinite, unless it may be.

    State: ``y``.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.neurons import SignTracker
        >>> tracker = SignTracker([1.0, 0.5, 0.25, 0.125], steps=4)
        >>> y, _ = spikeloom.run(tracker, torch.full((4, 1), 0.8))
        >>> y.flatten()
        tensor([1.0000, 0.5000, 0.7500, 0.8750])
    """

    rules = Fixed({"scale": POSITIVE})
    __repr__ = Neuron.__repr__

    def __init__(
        self,
        schedule: Schedule | Sequence[float],
        steps: int,
        scale: float | Tensor = 1.0,
        strict: bool = True,
        function: str | Callable[..., Any] | Function = "identity",
        *,
        undefined: bool = False,
        **constants: float | None,
    ) -> None:
        self.schedule, self.length, self.strict = as_schedule(schedule), steps, bool(strict)
        self.undefined = bool(undefined)
        self.constants = _given(**constants)
        self._asked, self.function = function, as_function(function, **self.constants)
        if self.function.operands != 1:
            raise ValueError(f"function: {self.function.name} has two operands, one is followed")
        etas = step_sizes(self.schedule, steps)
        super().__init__(
            self._step,
            state=("y",),
            params={"eta": PerStep(etas), "scale": scale},
            name="SignTracker",
        )

    def _step(self, x: Any, state: State, p: Any) -> tuple[Any, State]:
        (y,) = state
        target = self.function.value(x)
        step = p.scale * p.eta
        after = y + where(y > target if self.strict else y >= target, -step, step)
        if not self.undefined:
            after = after + 0.0 * detach(target)  # a comparison alone would take NaN for a number
        after = with_grad(after, (target, 1.0))
        return after, (after,)

    def response(self, values: Mapping[str, Any]) -> Response:
        """None of its input is added up: the target of a step is a function of that step's."""
        return Response(0.0)

    def form(self, values: Constants) -> Descent:
        """An estimate that receives values and sends itself."""
        slopes = self.function.slopes()
        return Descent(slopes, self.schedule, values["scale"], self.strict, sums=False)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {
            "schedule": self.schedule,
            "steps": self.length,
            "scale": self.params["scale"],
            "strict": self.strict,
            "undefined": self.undefined,
            "function": self._asked,
            **self.constants,
        }


class AnalogEncoder(_Scheduled):
    r"""The published "float" input code: a real number a step, and a residual that stays.

    .. math::
        f(t) = f(t-1) + \eta(t)\,(z - f(t-1))

    Input and output are increments, of ``z`` and of ``f``. With the published exponential schedule
    f never reaches z: 4.4 % of the input is missing for ever. It is here for comparison; a
    constant current or ``SignGD("identity")`` encode better.

    Args:
        schedule: As for :class:`SignGD`.

    Raises:
        TypeError: If the schedule is none.

    State: ``z``, ``f``, and ``t``, the steps done.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.neurons import AnalogEncoder
        >>> z = torch.zeros(64, 1)
        >>> z[0] = 1.0
        >>> _, (_, f, _) = spikeloom.run(AnalogEncoder(), z)
        >>> f
        tensor([0.9508])
    """

    def __init__(self, schedule: Schedule | Sequence[float] = Exponential()) -> None:
        super().__init__(("z", "f"), schedule, {})

    def _step(self, x: Any, state: State, p: Any) -> tuple[Any, State]:
        z, f, t = state
        z = z + x
        after = f - self._eta(t, p) * (f - z)
        return after - f, (z, after, t + 1.0)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {"schedule": self.schedule}


def step_sizes(schedule: Schedule, steps: int) -> Tensor:
    """The first steps of a schedule as a float32 tensor.

    Args:
        schedule: Whose steps.
        steps: How many.

    Raises:
        TypeError: If ``steps`` is not an int.
        ValueError: If it is not positive, or the schedule has fewer steps.
    """
    checked_count("steps", steps)
    etas = schedule.steps(steps)
    if len(etas) < steps:
        raise ValueError(f"steps: the schedule has {len(etas)} steps, {steps} are asked for")
    return torch.tensor(etas, dtype=torch.float64).float()


def _given(**constants: float | None) -> Fixed[float]:
    return Fixed({name: value for name, value in constants.items() if value is not None})


def _operand_names(function: Function) -> tuple[str, ...]:
    return ("x",) if function.operands == 1 else ("x1", "x2")
