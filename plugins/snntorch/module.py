"""SpikingModule: any spikeloom neuron with snnTorch's conventions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from spikeloom import Neuron, run
from spikeloom.kernel.call import COMPUTED, run_step
from spikeloom.kernel.lengths import Lengths
from spikeloom.kernel.promotion import promoted
from spikeloom.layer import current_parameters, register_parameters
from spikeloom.modules import register

from ..adapter import Describing, tensor_names
from .conventions import OURS
from .state import KeepsStates, State, is_rest

__all__ = ["SpikingModule", "make"]

Input = Tensor | tuple[Tensor, ...]

# Where torch cannot tell an export from a compilation, it counts as one.
_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


class SpikingModule(Describing, KeepsStates):
    """A neuron that is called as snnTorch's are.

    One step a call, states in and out, the membrane potential last::

        spk, mem = neuron(x, mem)
        spk, syn, mem = neuron(x, syn, mem)

    As snnTorch's, a module keeps the states that a call leaves, and a step without states goes on
    from them, or starts at rest if the input has another shape; reset it with
    :meth:`reset_mem` or :func:`spikeloom.plugins.snntorch.reset`. Where that was forgotten, the
    next backward pass raises a RuntimeError that names it. With ``init_hidden=True`` no states are
    passed: ``spk = neuron(x)``, and with ``output=True`` also ``spk, mem = neuron(x)``; another
    shape is then an error. Each state can be read and set as an attribute, the membrane potential
    as ``mem`` too, so ``snntorch.functional.probe.AttributeMonitor`` records it.

    A whole sequence in one call is what makes it fast: :meth:`sequence`, or ``time_first=True``,
    which makes it the module's ordinary call (in ``nn.Sequential``, for hooks and monitors). A
    sequence without states starts at rest unless ``init_hidden=True``, or a state was set. It
    has to be said, because shapes cannot tell: ``[10, 32, 8]`` may be ten steps of a batch of 32
    or one step of a batch of 10 two-dimensional samples.

    A class for one kind of neuron takes three lines, and is listed by
    :func:`spikeloom.plugins.components`::

        @component("few-spike conversion", "a paper")
        class OAT(SpikingModule, describes=neurons.OAT):
            '''What it computes, its arguments, its source.'''

    Its arguments are those of ``describes`` (a Neuron class, or any function that returns a
    Neuron), and the keyword-only ones below.

    Args:
        neuron: What to run. Its tensors become the module's parameters (if they are Parameters)
            or buffers, so they train, move and save with it; states are not saved.
        init_hidden: The states are the module's alone: none is passed or returned.
        output: With ``init_hidden``, return the states too.
        time_first: ``forward`` takes sequences ``[T, batch, *]``. None: only for a neuron that sums
            its input over time before it begins, and has no single step.
        implementation: As for :func:`spikeloom.run`.

    Shape:
        - Input: ``[batch, *]``, or ``[T, batch, *]`` with ``time_first``
        - Output: the same; states ``[batch, *]``

        Spikes have the input's dtype. States are float32, and float64 for float64 input.

    Raises:
        TypeError: If ``neuron`` is no Neuron.
        ValueError: If ``time_first=False`` is asked of a neuron without a single step.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.plugins import snntorch
        >>> lif = snntorch.make(spikeloom.neurons.LIF(tau=2.0))
        >>> spk, v = lif(torch.full((1, 2), 1.5))
        >>> spk, v = lif(torch.full((1, 2), 1.5), v)
        >>> spk
        tensor([[1., 1.]])
        >>> spk, v = lif.sequence(torch.full((4, 1, 2), 1.5))
        >>> spk.sum(0)
        tensor([[2., 2.]])
    """

    _never_called = frozenset(
        {
            "fire",
            "fire_inhibition",
            "mem_reset",
            "state_function",
            "_base_state_function",
            "_base_sub",
            "_base_zero",
            "_base_int",
            "_surrogate_bypass",
        }
    )

    def __init__(
        self,
        *args: Any,
        init_hidden: bool = False,
        output: bool = False,
        time_first: bool | None = None,
        implementation: str = "auto",
        **settings: Any,
    ) -> None:
        super().__init__()
        neuron = self._described(args, settings)
        if neuron.begin is not None and time_first is False:
            raise ValueError(
                f"time_first: {neuron.name} sums its input over time before its first step, so it "
                f"takes whole sequences only; leave time_first out"
            )
        self.neuron = neuron
        self.init_hidden = init_hidden
        self.output = output
        self.time_first = bool(time_first) or neuron.begin is not None
        self.implementation = implementation
        self._check_free("snnTorch", tensor_names(neuron))
        register_parameters(self, neuron)
        self._keep_states()

    def forward(
        self,
        x: Input,
        *states: Tensor | None,
        mem: Tensor | None = None,
        lengths: Lengths = None,
    ) -> Any:
        """One step, or with ``time_first`` a sequence.

        Args:
            x: ``[batch, *]``; with ``time_first`` ``[T, batch, *]``. A tuple for a neuron with
                several inputs.
            states: States, the membrane potential last; without them a step goes on from the
                module's own. ``torch.zeros(0)`` starts at rest.
            mem: The membrane potential by name.
            lengths: With ``time_first``, as for :meth:`sequence`.

        Returns:
            ``(spk, *states)``; only ``spk`` with ``init_hidden`` and without ``output``.

        Raises:
            TypeError: If a state is passed while ``init_hidden=True``, or has a dtype or device
                that does not fit; ``lengths`` of a single step.
            ValueError: If states are missing or have another shape than the input.
        """
        if self.time_first:
            return self.sequence(x, *states, mem=mem, lengths=lengths)
        if lengths is not None:
            raise TypeError(
                f"lengths: {self.neuron.name} takes one step at each call; call sequence(x, "
                f"lengths=...), or make it with time_first=True"
            )
        y, after, _ = self._run(x, states, mem, steps=True)
        return self._answer(y, after)

    def sequence(
        self,
        x: Input,
        *states: Tensor | None,
        mem: Tensor | None = None,
        record: bool = False,
        lengths: Lengths = None,
    ) -> Any:
        """All steps in one fused call.

        Args:
            x: ``[T, batch, *]``.
            states: States before the first step, the membrane potential last; without them it
                starts at rest, or with ``init_hidden`` goes on from the module's own.
            mem: The membrane potential by name.
            record: Also return the membrane potential after every step, as losses on the membrane
                need it.
            lengths: How many steps each sequence of the batch has, as for :func:`spikeloom.run`;
                the states are then those at each sequence's end.

        Returns:
            What :meth:`forward` returns, ``spk`` of shape ``[T, batch, *]`` and the states after
            the last step; with ``record`` also ``mem_rec`` of shape ``[T, batch, *]``.

        Raises:
            TypeError: As :meth:`forward`.
            ValueError: As :meth:`forward`; ``record`` of a neuron without a state.
        """
        if record and not self.neuron.rest:
            raise ValueError(f"record: {self.neuron.name} has no state to record")
        membrane = self.neuron.state_names[0] if record else None
        options = {"record": membrane, "lengths": lengths}
        y, after, trace = self._run(x, states, mem, steps=False, **options)
        answer = self._answer(y, after)
        if not record:
            return answer
        return (*answer, trace) if self._returns_states else (answer, trace)

    def _run(
        self, x: Input, states: tuple[Any, ...], mem: Any, steps: bool, **options: Any
    ) -> tuple[Any, State, Tensor | None]:
        given = states if mem is None else (*states, mem)
        params = current_parameters(self, self.neuron)
        x = promoted(x, lambda: params)
        state = self._start(given, x, steps)
        y, after, *trace = self._call(x, state, params, steps, **options)
        if self.init_hidden or _stays(after):
            self._keep(after)
        return y, after, trace[0] if trace else None

    def _call(
        self,
        x: Input,
        state: State | None,
        params: Any,
        steps: bool,
        record: str | None = None,
        lengths: Lengths = None,
    ) -> Any:
        """The outputs, the states after them and with ``record`` its sequence."""
        how = {"params": params, "implementation": self.implementation}
        if steps:
            return run_step(self.neuron, x, state, **how)
        return run(self.neuron, x, state, record=record, lengths=lengths, **how)

    def _start(self, given: tuple[Any, ...], x: Input, steps: bool) -> State | None:
        """The states before a call; None for rest."""
        shape = _first(x).shape if steps else _first(x).shape[1:]
        passed = any(state is not None for state in given)
        self._restart(goes_on=self.init_hidden or (not passed and (steps or self._is_set)))
        if not self.init_hidden:
            if passed:
                return self._passed(given, x, shape)
            goes_on = self._is_set or (steps and not _exporting())
            return self._carried(x, shape) if goes_on and self._fits(x, shape) else None
        if not all(map(is_rest, given)):
            raise TypeError(
                f"{self.neuron.name}: keeps its own states (init_hidden=True), so none can be "
                f"passed; leave them out, or make it with init_hidden=False"
            )
        return self._carried(x, shape)

    def _carried(self, x: Input, shape: torch.Size) -> State | None:
        """The states that are kept, for this input and neurons of this shape."""
        if self._hidden is None:
            return None
        device = _first(x).device
        return self._fitted(tuple([state.to(device) for state in self._hidden]), x, shape)

    def _fits(self, x: Input, shape: torch.Size) -> bool:
        """Whether this input can go on from the states that are kept; as in snnTorch, or rest."""
        first = _first(x)
        return self._hidden is not None and all(
            s.shape == shape and s.is_meta <= first.is_meta for s in self._hidden
        )

    def _passed(self, given: tuple[Any, ...], x: Input, shape: torch.Size) -> State | None:
        """The states a caller passed, in the neuron's order; None for rest."""
        resting = [is_rest(state) for state in given]
        if all(resting):
            return None
        if len(given) != len(self.neuron.state_names) or any(resting):
            names = _membrane_last(self.neuron.state_names)
            raise ValueError(
                f"{self.neuron.name}: pass all its states ({', '.join(names)}), or none to start "
                f"at rest; got {len(given)} with {sum(resting)} of them at rest"
            )
        return self._fitted(given[-1:] + given[:-1], x, shape)

    def _fitted(self, states: tuple[Any, ...], x: Input, shape: torch.Size) -> State:
        for name, state in zip(self.neuron.state_names, states, strict=True):
            if isinstance(state, Tensor) and state.shape != shape:
                raise ValueError(
                    f"{self.neuron.name}: state {name!r} has shape {tuple(state.shape)}, a step of "
                    f"the input {tuple(shape)}; start a new batch at rest: with init_hidden by "
                    f"reset(net) or reset_mem(), else by mem=None"
                )
        first = _first(x)
        return tuple([_widened(state, first) for state in states])

    @property
    def _returns_states(self) -> bool:
        return bool(self.neuron.state_names) and (self.output or not self.init_hidden)

    def _answer(self, y: Any, after: State) -> Any:
        return (y, *_membrane_last(after)) if self._returns_states else y

    def extra_repr(self) -> str:
        """The neuron, how it is called and how it runs."""
        flags = [name for name in ("init_hidden", "output", "time_first") if getattr(self, name)]
        shown = [self._shown_neuron(), *(f"{name}=True" for name in flags)]
        return ", ".join(filter(None, (*shown, self._shown_implementation())))


register(SpikingModule, OURS)


def make(neuron: Neuron, **kw: Any) -> SpikingModule:
    """Turn any neuron, also one of your own, into a snnTorch-style module.

    Args:
        neuron: What to run.
        kw: ``init_hidden``, ``output``, ``time_first``, ``implementation``; see
            :class:`SpikingModule`.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.kernel.vocabulary import fire
        >>> def adaptive(x, state, p):
        ...     v, a = state
        ...     h = 0.5 * v + x
        ...     s = fire(h - 1.0 - a)
        ...     return s, (h * (1.0 - s), 0.5 * a + s)
        >>> neuron = make(spikeloom.Neuron(adaptive, state=("v", "a")))
        >>> spk, a, v = neuron(torch.ones(1, 3))
        >>> spk, a, v = neuron(torch.ones(1, 3), a, v)
        >>> spk
        tensor([[0., 0., 0.]])
    """
    return SpikingModule(neuron, **kw)


def _first(x: Input) -> Tensor:
    return x[0] if isinstance(x, tuple) else x


def _membrane_last(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """From a neuron's order, the membrane potential first, to snnTorch's."""
    return values[1:] + values[:1]


def _stays(states: State) -> bool:
    """Whether states outlive the call: those of an export or a transformation do not."""
    if _exporting() or torch._C._are_functorch_transforms_active():
        return False
    return not any(isinstance(state, FakeTensor) for state in states)


def _widened(state: Any, x: Tensor) -> Any:
    """A narrower state in the dtype that this input is computed in; never a wider one."""
    wide = COMPUTED.get(x.dtype, x.dtype)
    if isinstance(state, Tensor) and state.dtype == wide:
        return state
    if not isinstance(state, Tensor) or torch.promote_types(state.dtype, wide) != wide:
        return state
    return state.to(wide)
