"""The states that a module keeps from one call to the next, under snnTorch's names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self
from weakref import WeakSet

import torch
from torch import Tensor, nn

from spikeloom import Neuron

from ..adapter import tensor_names
from ..recomputation import Restarting

__all__ = ["KeepsStates", "is_rest"]

State = tuple[Tensor, ...]

REST = torch.Size([0])


def is_rest(state: Any) -> bool:
    """Whether a state says "at rest": None, or ``torch.zeros(0)`` as in snnTorch."""
    return state is None or (isinstance(state, Tensor) and state.shape == REST)


class KeepsStates(Restarting, nn.Module):
    """What a call leaves, for the next one: each state is an attribute, the membrane ``mem`` too.

    They move with the module, and are copied and pickled with it, but not saved in its state_dict.
    """

    # Weak, so that a deleted network's neurons are gone.
    _live: ClassVar[WeakSet[KeepsStates]] = WeakSet()

    neuron: Neuron
    _hidden: State | None
    # Whether a user has set a state since the last call.
    _is_set: bool
    _places: dict[str, int]

    def _keep_states(self) -> None:
        """Begin at rest, with a name for each state; the module's own attributes keep theirs."""
        names = self.neuron.state_names
        taken = {*dir(self), *tensor_names(self.neuron)}
        places = {name: place for place, name in enumerate(names) if name not in taken}
        self._places = {**places, "mem": 0} if names else {}
        self._hidden, self._is_set = None, False
        self._live.add(self)

    def __getattr__(self, name: str) -> Any:
        # snnTorch's probes call this themselves, also for what an ordinary look-up finds.
        place = self.__dict__.get("_places", {}).get(name)
        return super().__getattr__(name) if place is None else self._kept(place)

    def __setattr__(self, name: str, value: Any) -> None:
        place = self.__dict__.get("_places", {}).get(name)
        if place is None:
            super().__setattr__(name, value)
        else:
            self._put(name, place, value)

    @property
    def mem(self) -> Tensor:
        """The membrane potential after the last call; ``torch.zeros(0)`` at rest, as in snnTorch.

        It may be set, as in ``neuron.mem = neuron.mem.detach()``, and so may the other states,
        each under its name. Those that are at rest stay there.

        Raises:
            AttributeError: If it is set and the neuron has no state.
            TypeError: If it is set to anything but a tensor.
        """
        return self._kept(0)

    @mem.setter
    def mem(self, value: Tensor) -> None:
        raise AttributeError(f"{self.neuron.name}: has no state, so mem cannot be set")

    def _kept(self, place: int) -> Tensor:
        return self._hidden[place] if self._hidden else torch.zeros(0)

    def _keep(self, states: State | None) -> None:
        """Keep the states that a call has left; None is rest."""
        # Past nn.Module, which looks at each value to see whether it is a parameter.
        object.__setattr__(self, "_hidden", states)
        object.__setattr__(self, "_is_set", False)

    def _put(self, name: str, place: int, value: Any) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"{self.neuron.name}: {name} must be a tensor, got {value!r}")
        if is_rest(value):
            self._hidden = None
            return
        kept = self._hidden or [torch.full_like(value, r) for r in self.neuron.rest.values()]
        self._hidden = (*kept[:place], value, *kept[place + 1 :])
        self._is_set = True

    def reset_mem(self) -> Any:
        """Reset the states that are kept.

        Returns:
            An initial state: ``torch.zeros(0)``, snnTorch's sign for "no shape yet", for every
            state; alone if there is one, else a tuple.
        """
        self._restart(goes_on=False)
        self._keep(None)
        states = tuple(torch.zeros(0) for _ in self.neuron.rest)
        return states[0] if len(states) == 1 else states

    @classmethod
    def reset_hidden(cls) -> None:
        """Reset every neuron of this class, in all networks."""
        for module in list(cls._live):
            if isinstance(module, cls):
                module.reset_mem()

    @classmethod
    def detach_hidden(cls) -> None:
        """Cut the states that every neuron of this class keeps from their graph."""
        for module in list(cls._live):
            if isinstance(module, cls):
                module._hidden = _detached(module._hidden)

    def _snapshot(self) -> Any:
        return self._hidden, self._is_set

    def _put_back(self, snapshot: Any) -> None:
        self._hidden, self._is_set = snapshot

    def _is_at_rest(self) -> bool:
        return self._hidden is None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if self._hidden is not None:
            self._hidden = tuple(fn(state) for state in self._hidden)
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A state inside a graph can be neither copied nor pickled.
        return {**self.__dict__, "_hidden": _detached(self._hidden)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._live.add(self)


def _detached(states: State | None) -> State | None:
    return None if states is None else tuple(state.detach() for state in states)
