"""SpikeloomNode: any neuron description as a SpikingJelly neuron."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from spikingjelly.activation_based.neuron import BaseNode
from torch import Tensor, nn

from spikeloom.kernel.call import COMPUTED, run, run_step
from spikeloom.kernel.counted import counting_modes, uncounted
from spikeloom.kernel.lengths import Lengths
from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.promotion import promoted
from spikeloom.layer import current_parameters, register_parameters
from spikeloom.modules import register

from ..adapter import Describing, tensor_names
from ..recomputation import Restarting
from .conventions import OURS
from .steps_counted import complete_rules
from .surrogate import translated
from .twin import Twin

__all__ = ["SpikeloomNode", "make"]

State = tuple[Tensor, ...]


class SpikeloomNode(Restarting, Describing, BaseNode):
    r"""A neuron description as a SpikingJelly neuron.

    SpikingJelly sees a ``BaseNode`` with an explicit-state transition. Its memories are the
    neuron's states in order, the first under the name ``v``; the neuron's tensors are parameters
    (if they are Parameters) or buffers under their own names. Single steps and whole sequences
    run on the same kernel. While one of SpikingJelly's counters counts, the node runs operation by
    operation, as SpikingJelly's own neuron where one equals it; the results stay the same.

    A class for one kind of neuron takes three lines, and is listed by
    :func:`spikeloom.plugins.components`::

        @component("few-spike conversion", "a paper")
        class OATNode(SpikeloomNode, describes=neurons.OAT):
            '''What it computes, its arguments, its source.'''

    Its arguments are those of ``describes`` (a Neuron class, or any function that returns a
    Neuron), with SpikingJelly's ``step_mode`` and ``store_v_seq`` and our ``implementation``
    added; ``renamed={"surrogate_function": "surrogate"}`` gives arguments the host's names.
    SpikingJelly surrogate functions among the arguments are replaced by ours.

    Args:
        neuron: The description.
        step_mode: ``"s"`` for one step at each call, ``"m"`` for a sequence.
        store_v_seq: Keep the membrane potential after every step as ``v_seq``.
        implementation: ``"auto"``, ``"cupy"``, ``"llvm"`` or ``"eager"``, as for
            :func:`spikeloom.run`; a name is honoured or refused when the node is called.

    Shape:
        - Input: ``[N, *]`` in step mode "s", ``[T, N, *]`` in "m"; several inputs are several
          arguments.
        - Output: as the input, a tuple if the neuron has several outputs.
        - A neuron with a ``begin`` returns the decoded value ``[N, *]`` in "s"; in "m" its
          ``[T, N, *]`` input is summed over T, and K spikes ``[K, N, *]`` leave.

    States have the dtype that is computed in: float32 for float32, float16 and bfloat16 inputs,
    float64 for float64; the output has the input's dtype. A state whose shape does not fit the
    input starts anew, as for SpikingJelly's own neurons; dtype and device follow the input.
    Empty sequences and empty batches give empty outputs. A second derivative is refused, except
    with ``implementation="eager"``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a name of the neuron collides with an attribute of the module.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.plugins.spikingjelly import SpikeloomNode
        >>> node = SpikeloomNode(spikeloom.neurons.LIF(tau=2.0), step_mode="m")
        >>> node(torch.full((4, 1), 1.5)).flatten()
        tensor([0., 1., 0., 1.])
        >>> node.v
        tensor([0.])
    """

    _never_called = frozenset(
        {
            "neuronal_charge",
            "neuronal_fire",
            "neuronal_reset",
            "apply_hard_reset",
            "apply_soft_reset",
            "jit_hard_reset",
            "jit_soft_reset",
        }
    )

    def __init__(
        self,
        *args: Any,
        step_mode: str = "s",
        store_v_seq: bool = False,
        implementation: str = "auto",
        **settings: Any,
    ) -> None:
        settings = {name: translated(value) for name, value in settings.items()}
        neuron = self._described(map(translated, args), settings)
        (_, rest), *others = neuron.rest.items()
        # By name here and below: a subclass may also derive from one of SpikingJelly's own neurons.
        BaseNode.__init__(self, v_reset=float(rest), step_mode=step_mode, store_v_seq=store_v_seq)
        # These are BaseNode's own; a neuron that has them brings them itself.
        for name in ("v_threshold", "v_reset", "detach_reset", "surrogate_function"):
            delattr(self, name)
        self._neuron = neuron
        self.implementation = implementation
        others_names = [name for name, _ in others]
        self._check_free("SpikingJelly", [*others_names, *tensor_names(neuron)])
        for name, rest in others:
            self.register_memory(name, float(rest))
        register_parameters(self, neuron)

    @property
    def neuron(self) -> Neuron:
        """The description that the node runs."""
        return self._neuron

    # --- SpikingJelly's contract --------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """A step or a sequence, as ``step_mode`` says, from the node's memories."""
        self._restart()
        return super().forward(*args, **kwargs)

    def materialize_states(
        self, inputs: tuple[Tensor, ...], states: tuple[Any, ...], step_mode: str
    ) -> State:
        """States as tensors that fit the input; nothing is changed in place."""
        if twin := self._twin(inputs[0]):
            return twin.materialize_states(inputs, states, step_mode)
        (x, *_) = self._promoted(inputs)
        shape = x.shape[1:] if step_mode == "m" else x.shape
        pairs = zip(states, self.neuron.rest.values(), strict=True)
        return tuple(_fitted(state, rest, x, shape) for state, rest in pairs)

    def single_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: State
    ) -> tuple[State, State]:
        """One step with explicit states: ``(outputs, new states)``."""
        if twin := self._twin(inputs[0]):
            return twin.single_step(inputs, states)
        if self.neuron.begin is not None:
            sequences = tuple(x[None] for x in inputs)
            y, states = self._scan(sequences, states, reduce="sum")
        else:
            y, states = self._scan(inputs, states, run_step)
        return _as_tuple(y), states

    def multi_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: State
    ) -> tuple[State, State]:
        """A whole sequence with explicit states: ``(outputs, new states)``."""
        if self._transition_is_overridden():
            return BaseNode.multi_step_functional_forward(self, inputs, states)
        if twin := self._twin(inputs[0]):
            return twin.multi_step(inputs, states)
        y, states = self._scan(inputs, states)
        return _as_tuple(y), states

    def multi_step_forward(self, x_seq: Tensor, *args: Tensor, lengths: Lengths = None) -> Any:
        """A whole sequence from the node's memories, which are updated.

        Args:
            x_seq: ``[T, N, *]``.
            args: Further inputs.
            lengths: How many steps each sequence of the batch has, as for :func:`spikeloom.run`;
                the memories are then those at each sequence's end.
        """
        if lengths is not None:
            return self._to_ends((x_seq, *args), lengths)
        own = type(self).single_step_forward is BaseNode.single_step_forward
        if not own and self.neuron.begin is None:
            return self._by_steps(x_seq, *args)
        if twin := self._twin(x_seq):
            y, self.v_seq = twin.sequence(x_seq, self._memories)
            return y
        if not self.store_v_seq or self._transition_is_overridden():
            return BaseNode.multi_step_forward(self, x_seq, *args)
        return self._remembered((x_seq, *args))

    def _remembered(self, inputs: tuple[Tensor, ...], **options: Any) -> Any:
        """A whole sequence in one call, and what it leaves in the memories."""
        if self.store_v_seq:
            options["record"] = self.neuron.state_names[0]
        states = self.materialize_states(inputs, tuple(self._memories.values()), "m")
        y, states, *v_seq = self._scan(inputs, states, **options)
        self.v_seq = v_seq[0] if v_seq else None
        self._memories.update(zip(self._memories, states, strict=True))
        return y

    def _to_ends(self, inputs: tuple[Tensor, ...], lengths: Lengths) -> Any:
        own = type(self).single_step_forward is BaseNode.single_step_forward
        if not own or self._transition_is_overridden():
            raise TypeError(
                f"lengths: {type(self).__name__} has a step of its own, which does not know where "
                f"a sequence ends; run sequences of one length together"
            )
        return self._remembered(inputs, lengths=lengths)

    def _by_steps(self, *inputs: Tensor) -> Any:
        """A sequence through the single step that a subclass has written."""
        self.v_seq = None
        steps = [_as_tuple(self.single_step_forward(*now)) for now in zip(*inputs, strict=True)]
        y = tuple(torch.stack(sequence) for sequence in zip(*steps, strict=True))
        return y if len(y) > 1 else y[0]

    def _transition_is_overridden(self) -> bool:
        # A subclass that computes its own step must not be bypassed by our sequence.
        own = SpikeloomNode.single_step_functional_forward
        return type(self).single_step_functional_forward is not own

    def _promoted(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Counts and events as floating-point numbers."""
        return promoted(inputs, lambda: current_parameters(self, self.neuron))

    def _twin(self, x: Tensor) -> Twin | None:
        """SpikingJelly's own neuron, if it equals this one and a counter counts."""
        if not counting_modes() or self._transition_is_overridden():
            return None
        from .native import twin_of  # it knows this class

        with uncounted():
            native, stored = twin_of(self), self._promoted((x,))[0].dtype
            return Twin(native, x.dtype, stored) if native and stored in COMPUTED else None

    def _scan(
        self,
        inputs: tuple[Tensor, ...],
        states: State,
        how: Callable[..., Any] = run,
        **options: Any,
    ) -> Any:
        neuron = self.neuron
        options["params"] = current_parameters(self, neuron)
        options["implementation"] = self.implementation
        counted = counting_modes()
        if not counted:
            return how(neuron, inputs, states, **options)
        x = inputs[0][None] if how is run_step else inputs[0]
        with complete_rules(counted, self, x, states):
            return how(neuron, inputs, states, **options)

    def reset(self) -> None:
        """Reset the node."""
        self._restart(goes_on=False)
        super().reset()

    def _snapshot(self) -> Any:
        return tuple(self._memories.values()), self.v_seq

    def _put_back(self, snapshot: Any) -> None:
        values, self.v_seq = snapshot
        self._memories.update(zip(self._memories, values, strict=True))

    def _is_at_rest(self) -> bool:
        return not any(isinstance(value, Tensor) for value in self._memories.values())

    def detach(self) -> None:
        """Cut the states from the autograd graph."""
        # Not in place, as the base class does it: a state may be a view.
        for name, value in self._memories.items():
            self._memories[name] = value.detach() if isinstance(value, Tensor) else value
        self.v_seq = None if self.v_seq is None else self.v_seq.detach()

    def __getstate__(self) -> dict[str, Any]:
        """For copying and pickling: states inside an autograd graph are cut from it."""
        memories = {name: _cut(value) for name, value in self._memories.items()}
        return {**self.__dict__, "_memories": memories, "v_seq": _cut(self.v_seq)}

    # --- What runs, and why ---------------------------------------------------------------------

    def _tensors(self) -> Iterable[Any]:
        return (*self.memories(), *super()._tensors())

    def extra_repr(self) -> str:
        """The neuron with its arguments, the host's arguments and what runs."""
        return (
            f"{self._shown()}, step_mode={self.step_mode!r}, store_v_seq={self.store_v_seq}, "
            f"{self._shown_implementation()}"
        )

    def _shown(self) -> str:
        return repr(self._now())


register(SpikeloomNode, OURS)


def _fitted(state: Any, rest: float, x: Tensor, shape: torch.Size) -> Tensor:
    """A state that fits the input: moved if its shape does, otherwise started anew."""
    dtype = COMPUTED.get(x.dtype, x.dtype)
    if isinstance(state, Tensor):
        if state.shape == shape:
            return state.to(x.device, dtype)
        state = rest
    if counting_modes() and x.numel():
        # This is how SpikingJelly's neurons begin, and its counters notice a state.
        return torch.full_like(x if x.shape == shape else x[0], state, dtype=dtype)
    # One number serves all neurons.
    return x.new_full((), state, dtype=dtype).expand(shape)


def _cut(value: Any) -> Any:
    """A state outside the autograd graph; a leaf, such as a learned first state, as it is."""
    inside = isinstance(value, Tensor) and not value.is_leaf
    return value.detach() if inside else value


def _as_tuple(y: Any) -> State:
    return y if isinstance(y, tuple) else (y,)


def make(neuron: Neuron, *, step_mode: str = "m", **settings: Any) -> nn.Module:
    """A SpikingJelly neuron that runs a description, the user's own included.

    Args:
        neuron: The description.
        step_mode: Time first by default, as for every host's ``make``; ``"s"`` steps.
        settings: ``store_v_seq`` and ``implementation`` of :class:`SpikeloomNode`.

    Raises:
        TypeError: If it is not a description.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.kernel.vocabulary import fire
        >>> from spikeloom.plugins import spikingjelly
        >>> def integrate(x, state, p):
        ...     (v,) = state
        ...     s = fire(v + x - 1.0, spikeloom.neurons.surrogate.ATan())
        ...     return s, (v + x - s,)
        >>> node = spikingjelly.make(spikeloom.Neuron(integrate))
        >>> node(torch.full((4, 1), 0.75)).flatten()
        tensor([0., 1., 1., 1.])
    """
    return SpikeloomNode(neuron, step_mode=step_mode, **settings)
