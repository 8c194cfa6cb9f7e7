"""Any neuron description as a pair of Norse modules: a cell and a sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.kernel.call import COMPUTED, run, run_step
from spikeloom.kernel.lengths import Lengths
from spikeloom.kernel.neuron import Gated, Neuron, PerStep, tensor_of
from spikeloom.kernel.promotion import promoted
from spikeloom.layer import current_parameters, register_parameters
from spikeloom.modules import register, values_of

from ..adapter import Describing, tensor_names
from .conventions import OUR_CELLS, OUR_SEQUENCES
from .named import named_tuple

__all__ = ["SpikeloomCell", "SpikeloomSequence", "make", "make_cell"]


class _SpikeloomModule(Describing, nn.Module):
    """What cells and sequences share: the neuron, its tensors and its states."""

    _never_called = frozenset({"activation", "activation_sparse", "initial_state"})

    def __init__(self, *args: Any, implementation: str = "auto", **settings: Any) -> None:
        super().__init__()
        self.neuron = self._described(args, settings)
        self.implementation = implementation
        self.state_type = named_tuple("State", self.neuron.state_names)
        self._check_free("Norse", tensor_names(self.neuron))
        register_parameters(self, self.neuron)

    @property
    def p(self) -> Any:
        """The parameters as they are now, a named tuple of tensors; read only."""
        values = values_of(self)
        tensors = [
            torch.as_tensor(value) if (own := tensor_of(value)) is None else own
            for value in values.values()
        ]
        return named_tuple("Parameters", tuple(values))(*tensors)

    def _at_rest(self) -> tuple[float | Tensor, ...]:
        """Each state at rest: a number, or a tensor that broadcasts to the neurons."""
        return tuple(self.neuron.rest.values())

    def _rest(self, x: Any, shape: torch.Size) -> Any:
        """The state at rest for an input, and neurons of this shape."""
        return self.state_type(*expanded(self._at_rest(), x, shape))

    def _begins_at_rest(self) -> bool:
        """Whether a call without a state begins at the neuron's own numbers."""
        # A subclass may say otherwise, and so may a module.
        return getattr(self.state_fallback, "__func__", None) in _FALLBACKS

    def state_fallback(self, input_tensor: Any) -> Any:
        """The state before the first step, for this input: at rest."""
        raise NotImplementedError

    def _promoted(self, x: Any) -> Any:
        """Counts and events as floating-point numbers."""
        return promoted(x, lambda: current_parameters(self, self.neuron))

    def _scan(self, x: Any, state: Any, *, how: Callable[..., Any] = run, **options: Any) -> Any:
        """Run the neuron over an input, with a time axis unless ``how`` takes none."""
        first = checked(x := self._promoted(x))
        if state is not None:
            shape = first.shape if how is run_step else first.shape[1:]
            state = fitted(self.neuron, state, first, shape)
        return how(
            self.neuron,
            x,
            state,
            params=current_parameters(self, self.neuron),
            implementation=self.implementation,
            **options,
        )

    def extra_repr(self) -> str:
        """The neuron and its implementation."""
        return ", ".join(filter(None, (self._shown_neuron(), self._shown_habits())))

    def _shown_habits(self) -> str:
        """For repr: what a module does beside its neuron."""
        return self._shown_implementation()


class SpikeloomCell(_SpikeloomModule):
    r"""A neuron description as a Norse cell: one step.

    .. math:: (y[t],\; s[t]) = \mathrm{cell}(x[t],\; s[t-1])

    Norse finds the state by the argument ``state``. It is a plain named tuple of tensors with the
    neuron's state names, of the input's shape from the first step, and can be pickled. An exported
    program is saved with it; a process that loads one makes such a module first. The
    neuron's tensors are parameters (if they are Parameters) or buffers under their own names;
    :attr:`p` shows all parameters as a named tuple.

    A class for one kind of neuron takes three lines, and is listed by
    :func:`spikeloom.plugins.components`; its sequence takes three more::

        @component("few-spike conversion", "a paper")
        class OATCell(SpikeloomCell, describes=neurons.OAT):
            '''What it computes, its arguments, its source.'''

    Its arguments are those of ``describes`` (a Neuron class, or any function that returns a
    Neuron) and ``implementation``.

    Args:
        neuron: The description.
        implementation: ``"auto"``, ``"cupy"``, ``"llvm"`` or ``"eager"``, as for
            :func:`spikeloom.run`; a name is honoured or refused when the cell is called.

    Shape:
        - Input: ``[batch, *]``; a tuple of them for a neuron with several inputs.
        - Output: ``(output, state)``, all ``[batch, *]``; the output is a tuple if the neuron has
          several. A neuron with a ``begin`` takes one value and answers with its K spikes,
          ``[K, batch, *]``.

    States have the dtype that is computed in: float32 for float32, float16 and bfloat16 inputs,
    float64 for float64; the output has the input's dtype. A passed state is not changed. Unlike
    Norse's own, the first state does not require grad: pass one that does to differentiate
    towards it. Sparse inputs are refused.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a parameter's name collides with an attribute of the module, or a parameter
            changes with time.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.plugins.norse import SpikeloomCell
        >>> cell = SpikeloomCell(spikeloom.neurons.LIF(tau=2.0))
        >>> spikes, state = cell(torch.full((2,), 1.5))
        >>> state
        State(v=tensor([0.7500, 0.7500]))
        >>> cell(torch.full((2,), 1.5), state)[0]
        tensor([1., 1.])
    """

    def __init__(self, *args: Any, implementation: str = "auto", **settings: Any) -> None:
        super().__init__(*args, implementation=implementation, **settings)
        for name, value in self.neuron.params.items():
            changes = isinstance(value, (PerStep, Gated)) and value.values.shape[-1] > 1
            if changes and self.neuron.begin is None:
                raise ValueError(
                    f"{self.neuron.name}: parameter {name!r} changes with time, and a cell does "
                    f"not know the step; use the sequence, or keep a clock among the states"
                )

    def state_fallback(self, input_tensor: Any) -> Any:
        """The state before the first step, for an input ``[batch, *]``: at rest."""
        first = checked(self._promoted(input_tensor))
        return self._rest(first, first.shape)

    def forward(self, input_tensor: Any, state: Any = None) -> tuple[Any, Any]:
        """One step from a state; from rest without one."""
        if state is None and not self._begins_at_rest():
            state = self.state_fallback(input_tensor)
        if self.neuron.begin is None:
            y, last = self._scan(input_tensor, state, how=run_step)
        else:
            y, last = self._scan(_each(_with_time, input_tensor), state)
        return y, self.state_type(*last)


class SpikeloomSequence(_SpikeloomModule):
    r"""A neuron description as a Norse module over time, in one fused kernel.

    It equals a loop over the :class:`SpikeloomCell` of the same neuron, to which everything said
    there about states, parameters and classes of its kind applies.

    Args:
        neuron: The description.
        record_states: Return the states after every step instead of the last ones. Each state is
            a run of its own.
        implementation: As for :class:`SpikeloomCell`.

    Shape:
        - Input: ``[time, batch, *]``; a tuple of them for a neuron with several inputs.
        - Output: ``(output, state)``: ``[time, batch, *]`` and ``[batch, *]``, with
          ``record_states`` both ``[time, batch, *]``. A neuron with a ``begin`` sums its input
          over time, and K spikes ``[K, batch, *]`` leave.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a parameter's name collides with an attribute of the module.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.plugins.norse import SpikeloomSequence
        >>> lif = SpikeloomSequence(spikeloom.neurons.LIF(tau=2.0), record_states=True)
        >>> spikes, state = lif(torch.full((4, 1), 1.5))
        >>> spikes.flatten(), state.v.flatten()
        (tensor([0., 1., 0., 1.]), tensor([0.7500, 0.0000, 0.7500, 0.0000]))
    """

    def __init__(
        self,
        *args: Any,
        record_states: bool = False,
        implementation: str = "auto",
        **settings: Any,
    ) -> None:
        super().__init__(*args, implementation=implementation, **settings)
        self.record_states = record_states

    def _shown_habits(self) -> str:
        recording = "record_states=True, " if self.record_states else ""
        return recording + super()._shown_habits()

    def state_fallback(self, input_tensor: Any) -> Any:
        """The state before the first step, for an input ``[time, batch, *]``: at rest."""
        first = checked(self._promoted(input_tensor))
        return self._rest(first, first.shape[1:])

    def forward(
        self, input_tensor: Any, state: Any = None, lengths: Lengths = None
    ) -> tuple[Any, Any]:
        """A whole sequence from a state; from rest without one.

        Args:
            input_tensor: ``[time, batch, *]``.
            state: The state before the first step.
            lengths: How many steps each sequence of the batch has, as for :func:`spikeloom.run`.
        """
        if state is None and not self._begins_at_rest():
            state = self.state_fallback(input_tensor)
        names = self.neuron.state_names
        if not (self.record_states and names):
            y, states = self._scan(input_tensor, state, lengths=lengths)
        else:
            options = [{"record": name, "lengths": lengths} for name in names]
            recorded = [self._scan(input_tensor, state, **each) for each in options]
            y, states = recorded[0][0], (sequence for _, _, sequence in recorded)
        return y, self.state_type(*states)


register(SpikeloomCell, OUR_CELLS)
register(SpikeloomSequence, OUR_SEQUENCES)
_FALLBACKS = (SpikeloomCell.state_fallback, SpikeloomSequence.state_fallback)


def _each(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The change of a tensor, or of each tensor in a tuple."""
    return tuple(map(change, value)) if isinstance(value, tuple) else change(value)


def _with_time(x: Any) -> Tensor:
    return checked(x)[None]


def checked(x: Any) -> Tensor:
    """The input, or the first of several, if all are dense tensors."""
    parts = x if isinstance(x, tuple) and x else (x,)
    for part in parts:
        if not isinstance(part, Tensor):
            raise TypeError(f"input_tensor: must be a tensor, got {type(part).__name__}")
        if part.layout != torch.strided:
            raise TypeError(
                f"input_tensor: must be dense, got {part.layout}; "
                f"call input_tensor.to_dense() first"
            )
    first: Tensor = parts[0]
    return first


def expanded(values: Iterable[float | Tensor], x: Tensor, shape: torch.Size) -> tuple[Tensor, ...]:
    """Values for all neurons of this shape, where an input is, in the dtype it is computed in."""
    dtype = COMPUTED.get(x.dtype, x.dtype)
    return tuple(
        torch.as_tensor(value, dtype=dtype, device=x.device).expand(shape) for value in values
    )


def fitted(neuron: Neuron, state: Any, x: Tensor, shape: torch.Size) -> tuple[Any, ...]:
    """A state for an input; single numbers, as Norse begins with, serve all neurons."""
    names = neuron.state_names
    if not isinstance(state, tuple) or getattr(state, "_fields", names) != names:
        raise TypeError(f"state: must be a tuple of {names}, got {state!r}")
    return tuple(
        [expanded([value], x, shape)[0] if _is_number(value) else value for value in state]
    )


def _is_number(value: Any) -> bool:
    return value.dim() == 0 if isinstance(value, Tensor) else isinstance(value, (int, float))


def make(
    neuron: Neuron, *, record_states: bool = False, implementation: str = "auto"
) -> SpikeloomSequence:
    """A Norse module over time that runs a description, the user's own included.

    Args:
        neuron: The description.
        record_states: As for :class:`SpikeloomSequence`.
        implementation: As for :class:`SpikeloomCell`.

    Raises:
        TypeError: If it is not a description.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.kernel.vocabulary import fire
        >>> from spikeloom.plugins import norse
        >>> def integrate(x, state, p):
        ...     (v,) = state
        ...     s = fire(v + x - 1.0, spikeloom.neurons.surrogate.ATan())
        ...     return s, (v + x - s,)
        >>> spikes, state = norse.make(spikeloom.Neuron(integrate))(torch.full((4, 1), 0.75))
        >>> spikes.flatten()
        tensor([0., 1., 1., 1.])
    """
    return SpikeloomSequence(neuron, record_states=record_states, implementation=implementation)


def make_cell(neuron: Neuron, *, implementation: str = "auto") -> SpikeloomCell:
    """A Norse cell that runs one step of a description; see :func:`make`.

    Args:
        neuron: The description.
        implementation: As for :class:`SpikeloomCell`.

    Raises:
        TypeError: If it is not a description.
    """
    return SpikeloomCell(neuron, implementation=implementation)
