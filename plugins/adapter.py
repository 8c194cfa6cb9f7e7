"""What the hosts share: finding the framework, listing components, describing neurons.

A host's base module derives from :class:`Describing`; a class for one kind of neuron then takes
three lines in that host::

    @component("few-spike conversion", "a paper")
    class OATNode(SpikeloomNode, describes=neurons.OAT):
        '''What it computes, its arguments, its source.'''
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar, cast

from torch import Tensor, nn

from spikeloom.kernel.choose import choose
from spikeloom.kernel.neuron import Neuron, tensor_of
from spikeloom.layer import Implemented, as_now, checked_neuron
from spikeloom.modules import Circuit, register, registered

Class = TypeVar("Class", bound=type)
Describes = TypeVar("Describes", bound=Callable[[Any], Neuron | None])
Encircles = TypeVar("Encircles", bound=Callable[[Any], Circuit | None])

_components: list[Component] = []


@dataclass(frozen=True)
class Component:
    """One class of one host.

    Attributes:
        host: The framework, such as ``spikingjelly``.
        name: The class's name in ``spikeloom.plugins.<host>``.
        cls: The class.
        method: What it computes.
        paper: Where the method was published.
    """

    host: str
    name: str
    cls: type
    method: str
    paper: str


def component(method: str, paper: str, host: str = "") -> Callable[[Class], Class]:
    """Class decorator: list a host's class among the components.

    Its modules behave as those of the host's base module, if their conventions are registered
    (:func:`spikeloom.modules.register`). A subclass of the class with a ``forward`` of its own is
    another neuron then.

    Args:
        method: What it computes, such as ``LIF``.
        paper: Where the method was published.
        host: The host's name; by default the folder, or the package, that defines the class.
    """

    def listed(cls: Class) -> Class:
        folder = cls.__module__.split(".plugins.", 1)[-1].split(".", 1)[0]
        _components.append(Component(host or folder, cls.__name__, cls, method, paper))
        if conventions := registered(cls):
            register(cls, conventions)
        return cls

    return listed


def description_of(cls: Any, **stated: Any) -> Callable[[Describes], Describes]:
    """Decorator of the function from a framework's own module to the description of its neuron.

    It stands in the file of the class of ours that takes the module's place.

    Args:
        cls: The framework's class.
        stated: Further fields of :class:`spikeloom.modules.Conventions`.
    """

    def known(describe: Describes) -> Describes:
        conventions = registered(cls)
        assert conventions is not None, f"{cls.__name__} is not registered"
        register(cls, replace(conventions, describe=describe, **stated))
        return describe

    return known


def circuit_in(*classes: Any, **stated: Any) -> Callable[[Encircles], Encircles]:
    """Decorator of the function from a framework's own recurrent module to its circuit.

    Args:
        classes: The framework's classes.
        stated: Further fields of :class:`spikeloom.modules.Conventions`.
    """

    def known(circuit: Encircles) -> Encircles:
        for cls in classes:
            conventions = registered(cls)
            assert conventions is not None, f"{cls.__name__} is not registered"
            register(cls, replace(conventions, circuit=circuit, **stated))
        return circuit

    return known


def listed_components() -> tuple[Component, ...]:
    """The components of every host imported so far."""
    return tuple(_components)


def is_installed(package: str) -> bool:
    """Whether a framework can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def require(package: str, least: str) -> None:
    """Raise one clear ImportError when a framework is missing.

    Args:
        package: The framework's import name.
        least: Its requirement, for the message.

    Raises:
        ImportError: If it is not installed.
    """
    if not is_installed(package):
        raise ImportError(
            f"spikeloom.plugins.{package} needs {package}{least}: "
            f'pip install "spikeloom[{package}]"'
        )


def _given(neuron: Neuron, *others: Any, **settings: Any) -> Neuron:
    """The description of a bare module: the one it is given."""
    checked_neuron(neuron)
    if others or settings:
        got = ", ".join([*map(repr, others), *settings])
        raise TypeError(
            f"neuron: {neuron.name} is a complete description and takes no further arguments here, "
            f"got {got}; change it with neuron.replace(...), and name the module's own arguments"
        )
    return neuron


class Describing(Implemented):
    """Mixin of a host's base module: made from a neuron description, or from its arguments.

    Subclasses may say ``describes=``, a Neuron class or any function that returns a Neuron: their
    arguments are then its arguments, and the keyword-only ones of the host's base module.
    ``renamed={"surrogate_function": "surrogate"}`` gives arguments the host's names.
    """

    # Tracers (torch.fx, nirtorch) must never look inside and lose the neuron.
    _is_leaf_module = True

    neuron: Any
    __signature__: ClassVar[inspect.Signature]

    _describe: Callable[..., Neuron] = staticmethod(_given)
    _renamed: Mapping[str, str] = {}
    # What modules of the host call and ours do not: to override it would change nothing.
    _never_called: frozenset[str] = frozenset()
    # Parameters that a subclass computes from others, as properties.
    _computed: frozenset[str] = frozenset()

    def __init_subclass__(
        cls,
        describes: Callable[..., Neuron] | None = None,
        renamed: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls._check_methods()
        if describes is not None:
            cls._describe = staticmethod(describes)
            cls._renamed = dict(renamed or {})
            # help() and editors show the arguments of the description.
            cls.__signature__ = _signature(cls, describes)

    @classmethod
    def _check_methods(cls) -> None:
        """Raise TypeError if a subclass, or a mixin of it, brings a method that is never called."""
        if "_never_called" in vars(cls):
            return
        base = next(kind for kind in cls.__mro__ if "_never_called" in vars(kind))
        for kind in cls.__mro__:
            for name in sorted(cls._never_called & vars(kind).keys() - vars(object).keys()):
                if kind not in base.__mro__:
                    folder = base.__module__.split(".plugins.", 1)[-1].split(".", 1)[0]
                    raise TypeError(
                        f"{cls.__name__}: {name} is never called, because the neuron is compiled "
                        f"as a whole; write its step as a spikeloom.Neuron and take "
                        f"plugins.{folder}.make(neuron)"
                    )

    @classmethod
    def _described(cls, args: Iterable[Any], settings: Mapping[str, Any]) -> Neuron:
        """The description that these arguments make, under the host's names or ours."""
        named = {cls._renamed.get(name, name): value for name, value in settings.items()}
        return cls._describe(*args, **named)

    def _check_free(self, host: str, names: Sequence[str]) -> None:
        """Raise ValueError if a name that the neuron brings is taken in the host's module."""
        taken = set(dir(self)) - self._computed
        for name in names:
            if name in taken or names.count(name) > 1:
                raise ValueError(
                    f"{self.neuron.name}: a {host} module already has an attribute {name!r}; "
                    f"give the state or parameter another name"
                )

    def _tensors(self) -> Iterable[Any]:
        """What tells where the module is."""
        module = cast(nn.Module, self)
        return (*module.parameters(), *module.buffers())

    def _now(self) -> Neuron:
        """The neuron with the values that the module holds now, for repr."""
        return as_now(cast(nn.Module, self), self.neuron)

    def _chosen(self) -> tuple[str, str]:
        """The implementation where the module's tensors are, and why no kernel if none runs."""
        devices = (value.device for value in self._tensors() if isinstance(value, Tensor))
        try:
            return choose(self.implementation, next(devices, "cpu"), self.neuron.reason)
        except (RuntimeError, ValueError) as error:
            return "none", str(error)

    @property
    def implementation_reason(self) -> str:
        """Why no kernel runs this module where its tensors are; empty if one does."""
        return self._chosen()[1]

    def _shown_neuron(self) -> str:
        """For repr: the neuron, only its arguments if the module has its name."""
        name, shown = self.neuron.name, repr(self._now())
        if type(self).__name__.removesuffix("Cell") != name or not shown.startswith(f"{name}("):
            return shown
        return shown[len(name) + 1 : -1]

    def _shown_implementation(self) -> str:
        """For repr: what was asked for, and what runs."""
        name, reason = self._chosen()
        used = f"{name}: {reason}" if reason else name
        return f"implementation={self.implementation!r} ({used})"


def _signature(cls: Any, describes: Callable[..., Neuron]) -> inspect.Signature:
    """The arguments of a description under the host's names, and those of every module."""
    shown = {ours: theirs for theirs, ours in cls._renamed.items()}
    own = inspect.signature(describes).parameters.values()
    common = inspect.signature(cls.__init__).parameters.values()
    arguments = [
        *(parameter.replace(name=shown.get(parameter.name, parameter.name)) for parameter in own),
        *(parameter for parameter in common if parameter.kind is parameter.KEYWORD_ONLY),
    ]
    # What takes any further names stands last.
    return inspect.Signature(sorted(arguments, key=lambda parameter: parameter.kind))


def tensor_names(neuron: Neuron) -> list[str]:
    """The parameters of a neuron that are tensors."""
    return [name for name, value in neuron.params.items() if tensor_of(value) is not None]
