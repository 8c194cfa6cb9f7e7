"""Calls like an earlier one of the same neuron: checked once, and answered by its plan."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikeloom.kernel import checked
from spikeloom.kernel.counted import counting_modes
from spikeloom.kernel.neuron import Neuron, Parameter, tensor_of
from spikeloom.kernel.plain import facts, is_watched
from spikeloom.kernel.plan import Plan
from spikeloom.kernel.scan import follow

__all__ = ["Answer", "Known", "key_of", "remember", "settled"]

State = tuple[Tensor, ...]
Parameters = dict[str, Parameter]
Key = tuple[Any, ...]

# Kinds of calls that a neuron remembers.
REMEMBERED = 64


class Answer(NamedTuple):
    """How the results of a scan make the answer of a call.

    Attributes:
        outputs: How many outputs the neuron has,
        states: and how many states.
        record: The state whose sequence is returned.
        reduce: What becomes of the outputs over time.
        steps: T.
        dtype: The outputs'.
        single: Whether the outputs are those of one step, whose time axis is taken away.
    """

    outputs: int
    states: int
    record: str | None
    reduce: str | None
    steps: int
    dtype: torch.dtype
    single: bool

    def sequences(self) -> int:
        """How many sequences a kernel returns."""
        return (0 if self.reduce else self.outputs) + (self.record is not None)

    def of_kernel(self, found: State) -> Any:
        """The answer, from the sequences and last states of a kernel."""
        count = self.sequences()
        ys, ws, seq = found[:count], found[count:], None
        if self.record is not None:
            ys, seq = ys[:-1], ys[-1]
        if self.reduce is not None:  # the sums are its last states
            ys, ws = ws[self.states :], ws[: self.states]
        return self.of(ys, ws, seq)

    def is_as_found(self, dtype: torch.dtype) -> bool:
        """Whether the answer is what a kernel returns: one output of this dtype, and last states.

        Args:
            dtype: In which the kernel writes its outputs.
        """
        changed = self.record is not None or self.reduce is not None or self.single
        return self.outputs == 1 and self.dtype == dtype and not changed

    def of(self, ys: State, ws: State, seq: Tensor | None) -> Any:
        """The answer, from outputs that are summed already, last states and a recorded sequence."""
        if self.reduce == "mean":
            ys = tuple([y / max(self.steps, 1) for y in ys])
        ys = tuple([y if y.dtype == self.dtype else y.to(self.dtype) for y in ys])
        if self.single:
            ys = tuple([y[0] for y in ys])
        y = ys[0] if len(ys) == 1 else ys
        return (y, ws) if self.record is None else (y, ws, seq)


def key_of(
    neuron: Any,
    xs: tuple[Any, ...],
    state: Any,
    params: Parameters,
    asked: tuple[Any, ...],
    single: bool,
) -> Key | None:
    """Everything that the checks of a call look at, which is never the values of a tensor.

    Args:
        neuron: What is run.
        xs: Its inputs.
        state: Its states before the first step, or None.
        params: Values that replace its own.
        asked: What else was asked for, each a name or None.
        single: Whether the inputs are one step without a time axis.

    Returns:
        The key; None if the call has to be checked in any case, because it is traced or
        transformed, or its tensors are not plain memory.
    """
    if is_watched() or not isinstance(neuron, Neuron) or counting_modes():
        return None
    if not (state is None or isinstance(state, tuple)):
        return None
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    found: list[Any] = [*modes, single, asked, len(xs), state is None]
    for name in asked:
        if not (name is None or type(name) is str):
            return None
    for tensor in (*xs, *(state or ())):
        found.append(facts(tensor))
    own, replaced = neuron.params, 0
    for name in neuron.tensor_params:
        if name in params:
            value = params[name]
            replaced += 1
        else:
            value = own[name]
        if isinstance(value, Tensor):
            found.append(facts(value))
        else:
            found += (type(value), facts(tensor_of(value)))
    if len(params) > replaced:
        found.append(_numbers(neuron, params))
    return None if None in found else tuple(found)


def _numbers(neuron: Neuron, params: Parameters) -> Key | None:
    """The numbers among given values; None if a value is anything else."""
    found = []
    for name, value in params.items():
        if name in neuron.tensor_params:
            continue
        if type(value) is not float or name not in neuron.params:
            return None
        found.append((name, value.hex()))  # 0 and -0 are equal, and NaN is not itself
    return tuple(found)


class Known:
    """A call that has been checked.

    Args:
        plan: How it runs.
        answer: How its results make its answer.
        constant: Which results have no gradient.
        neuron: What it runs.
        params: The values that replaced the neuron's own.
        tensors: All that it took: inputs, states, sums of outputs, parameters.
        at_rest: Whether the states are those at rest.
    """

    def __init__(
        self,
        plan: Plan,
        answer: Answer,
        constant: tuple[int, ...],
        neuron: Neuron,
        params: Parameters,
        tensors: State,
        *,
        at_rest: bool,
    ) -> None:
        self._plan, self._answer, self._constant = plan, answer, constant
        self._is_as_found = answer.is_as_found(plan.dtype)
        first = plan.inputs + answer.states
        self._rest = tensors[plan.inputs : first] if at_rest else ()
        self._sums = tensors[first : plan.given]
        self._fits = all(
            given is found and not _scaled(neuron, given)
            for given, found in zip(_held(neuron, params), tensors[plan.given :], strict=True)
        )

    def __call__(self, neuron: Neuron, xs: State, state: State | None, params: Parameters) -> Any:
        """The answer to another call with the same key.

        Args:
            neuron: What to run.
            xs: Inputs.
            state: States before the first step, or None.
            params: Values that replace the neuron's own.
        """
        if self._answer.single:
            xs = tuple([x[None] for x in xs])
        ps = _held(neuron, params) if self._fits else self._fitted(neuron, xs[0], params)
        vs = self._rest if state is None else state
        found = follow(self._plan, self._constant, (*xs, *vs, *self._sums, *ps))
        return (found[0], found[1:]) if self._is_as_found else self._answer.of_kernel(found)

    def _fitted(self, neuron: Neuron, x: Tensor, params: Parameters) -> list[Tensor]:
        """The parameters that have to be converted or expanded."""
        x = x[None] if self._plan.single else x
        dtype = checked.COMPUTED[x.dtype]
        values = checked.parameters(neuron, params, x, self._answer.steps, dtype)
        return [value for value in values.values() if isinstance(value, Tensor)]


def settled(device: torch.device) -> bool:
    """Whether the constants of a call may serve later ones: on a GPU, after waiting for them once.

    Args:
        device: Of the call.

    Returns:
        False while a CUDA graph is captured: what the call made exists only when it is replayed.
    """
    if device.type == "cuda":
        if torch.cuda.is_current_stream_capturing():
            return False
        torch.cuda.current_stream(device).synchronize()  # later calls may be on another stream
    return True


def remember(neuron: Neuron, key: Key, known: Known) -> None:
    """Answer calls with this key so from now on.

    Args:
        neuron: What they run.
        key: What they have in common.
        known: One of them.
    """
    if len(neuron.known_calls) >= REMEMBERED:
        neuron.known_calls.clear()
    neuron.known_calls[key] = known


def _held(neuron: Neuron, params: Parameters) -> list[Tensor]:
    """The tensors of the parameters in this call, in order."""
    own = neuron.params
    values = [params[name] if name in params else own[name] for name in neuron.tensor_params]
    return [value if isinstance(value, Tensor) else tensor_of(value) for value in values]  # type: ignore[misc]  # those that hold tensors


def _scaled(neuron: Neuron, tensor: Tensor) -> bool:
    """Whether the neuron may scale the gradient of a parameter."""
    overridden = type(neuron).gradient_scale is not Neuron.gradient_scale
    return tensor.requires_grad and overridden
