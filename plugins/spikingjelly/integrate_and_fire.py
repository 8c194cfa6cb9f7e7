"""IntegrateAndFireNode: the base of our nodes that derive from SpikingJelly's of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

from spikeloom.kernel.neuron import Neuron, kind
from spikeloom.kernel.vocabulary import with_nan

from .native import Differs, function_of, habits_of, number_of
from .node import SpikeloomNode
from .surrogate import kernel_form, no_kernel_form, translated

__all__ = ["HostFires", "IntegrateAndFireNode", "firing_of", "native_node"]


class HostFires(Neuron):
    """Mixin: fires through a SpikingJelly function itself, and therefore runs eager.

    Args:
        surrogate: The function.
        settings: The other arguments of the neuron.
    """

    def __init__(self, surrogate: Any, **settings: Any) -> None:
        self.function = surrogate
        super().__init__(**settings)

    def _fire(self, u: Any) -> Any:
        if not isinstance(u, Tensor):
            raise TypeError(no_kernel_form(self.function))
        return with_nan(self.function(u), u)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {**super().settings(), "surrogate": self.function}


class IntegrateAndFireNode(SpikeloomNode):
    """The host's arguments as attributes, which may be changed between two calls.

    Args:
        settings: The arguments of the description, under the host's names.
        habits: The arguments of every node.
    """

    # The description, and the one that fires through a function of SpikingJelly's.
    _own: ClassVar[Callable[..., Neuron]]
    _host_fired: ClassVar[Callable[..., Neuron]]
    _names: tuple[str, ...] = ()

    def __init__(self, settings: dict[str, Any], **habits: Any) -> None:
        if settings["surrogate_function"] is None:
            settings = {**settings, "surrogate_function": surrogate.Sigmoid()}
        super().__init__(self._description(settings), **habits)
        for name, value in settings.items():
            if not hasattr(self, name):  # tensors are registered already
                setattr(self, name, value)
        self._names = tuple(settings)
        self._made_from = _key(settings)
        self._changed = False

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        # A parameter from which a setting is computed may have become one for each neuron.
        if name in self._names or name in self.__dict__.get("_parameters", ()):
            self._changed = True

    @property
    def neuron(self) -> Neuron:
        """The description that the attributes state now."""
        # A surrogate function may also change within.
        if self._changed or _form(self.surrogate_function) != self._made_from[-1]:
            with torch.no_grad():  # a first call keeps no more for its backward pass than others
                settings = {name: self._setting(name) for name in self._names}
            if (key := _key(settings)) != self._made_from:
                self._neuron, self._made_from = self._description(settings), key
            self._changed = False
        return self._neuron

    @classmethod
    def _description(cls, settings: dict[str, Any]) -> Neuron:
        settings = dict(settings)
        function = settings.pop("surrogate_function")
        if not callable(function) and not hasattr(function, "derivative"):
            raise TypeError(
                f"surrogate_function: must be one of SpikingJelly's or of "
                f"spikeloom.neurons.surrogate, got {function!r}"
            )
        if hasattr(function, "derivative") or kernel_form(function):
            return cls._own(surrogate=translated(function), **settings)
        return cls._host_fired(function, **settings)

    def _setting(self, name: str) -> Any:
        return getattr(self, name)

    def _shown(self) -> str:
        # All arguments, as the host shows them, not those alone that differ from a default.
        return Neuron.__repr__(self._now())


def _key(settings: dict[str, Any]) -> tuple[Any, ...]:
    """What decides a description; a tensor's values are read when the node runs."""
    numbers = (kind(value) if isinstance(value, Tensor) else value for value in settings.values())
    return (*numbers, _form(settings["surrogate_function"]))


def _form(function: Any) -> Any:
    """What a surrogate function computes: a form of ours, or itself."""
    return kernel_form(function) or function


def native_node(module: SpikeloomNode, cls: type[nn.Module], *names: str, **others: Any) -> Any:
    """A node of SpikingJelly's that fires and resets as one of ours.

    Args:
        module: Ours.
        cls: SpikingJelly's class.
        names: The parameters that it takes as numbers.
        others: Further arguments.

    Raises:
        Differs: If SpikingJelly's cannot.
    """
    numbers = {name: number_of(module, name) for name in names}
    fire = firing_of(module)
    try:
        return cls(**numbers, **others, **fire)
    except AssertionError:
        raise Differs(
            f"SpikingJelly's {cls.__name__} refuses its settings: tau must be above 1, v_threshold "
            f"above v_reset, and v_rest not below it"
        ) from None


def firing_of(module: SpikeloomNode) -> dict[str, Any]:
    """The arguments of a node of SpikingJelly's that fires and resets as one of ours.

    Args:
        module: Ours.

    Raises:
        Differs: If SpikingJelly's cannot.
    """
    neuron: Any = module.neuron
    if not neuron.fires_at_threshold:
        raise Differs("it fires above the threshold, SpikingJelly's at the threshold")
    return {
        "v_threshold": number_of(module, "v_threshold"),
        "v_reset": neuron.v_reset,
        "surrogate_function": function_of(module),
        "detach_reset": neuron.detach_reset,
        **habits_of(module),
    }
