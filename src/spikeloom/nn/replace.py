"""event_driven: the layers of a network that are fed by spikes add what fired.

A layer stays the object that it is, with its parameters, hooks and name; only its class becomes
one that adds events. So optimisers, tied weights and state_dicts notice nothing. A framework's own
class, such as SpikingJelly's Linear, keeps its behaviour: its forward ends in ours instead of
torch's.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from spikeloom.calibrate import batches
from spikeloom.hosted import copied, to_rest
from spikeloom.modules import is_neuron
from spikeloom.nn.conv import SpikeConv1d, SpikeConv2d
from spikeloom.nn.layer import SpikeFed, checked_threshold
from spikeloom.nn.linear import SpikeLinear
from spikeloom.nn.product import is_spikes

__all__ = ["dense", "event_driven"]

Module = TypeVar("Module", bound=nn.Module)

# torch's layer -> ours.
KINDS: dict[type[nn.Module], type[SpikeFed]] = {
    nn.Linear: SpikeLinear,
    nn.Conv1d: SpikeConv1d,
    nn.Conv2d: SpikeConv2d,
}

# What a layer computes with.
COMPUTING = ("forward", "_conv_forward")

# Attributes that a layer gets; one that has any of them for a purpose of its own stays.
GIVEN = ("threshold", "_threshold", "operation", "dense_class")


def event_driven(net: Module, sample: Any = None, *, threshold: float | None = None) -> Module:
    """Let the weight layers of a network add the weights of what fired.

    Every :class:`torch.nn.Linear`, SpikingJelly's among them, becomes a
    :class:`~spikeloom.nn.SpikeLinear`, and convolutions along one or two axes likewise. Each of
    their calls looks whether its input is spikes, and few enough, so a layer that reads real values
    stays as it was but for that look. With a sample, only layers that receive spikes in a run on it
    are changed, and those that are not called in it stay. Layers inside a neuron stay, and so do
    those with a ``forward`` of a user's own, those with an attribute ``threshold`` or ``operation``
    of their own, and those whose parameters :mod:`torch.nn.utils.parametrize` computes.

    Args:
        net: Any network; its layers are changed in place. :func:`dense` undoes it.
        sample: What to call the network with: a tensor, a tuple of arguments or a dict of named
            ones. A copy of the network is run on it, from rest.
        threshold: As for :class:`~spikeloom.nn.SpikeLinear`, of all these layers. With None,
            layers that are event-driven already keep theirs.

    Returns:
        The network.

    Raises:
        TypeError: If ``net`` is no module, or ``threshold`` no number.
        ValueError: If ``threshold`` is outside of [0, 1], or a layer has yet to learn its sizes.

    Example:
        >>> import torch, spikeloom
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(8, 4),
        ...     spikeloom.SpikingLayer(spikeloom.neurons.LIF()),
        ...     torch.nn.Linear(4, 2),
        ... )
        >>> spikeloom.event_driven(net, torch.randn(5, 3, 8))[2]
        SpikeLinear(in_features=4, out_features=2, bias=True)
        >>> net[0]
        Linear(in_features=8, out_features=4, bias=True)
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net: must be a torch.nn.Module, got {type(net).__name__}")
    threshold = checked_threshold(threshold)
    layers = _layers(net)
    if sample is not None:
        fed = _fed_by_spikes(net, sample)
        layers = {name: layer for name, layer in layers.items() if name in fed}
    for layer in layers.values():
        if not isinstance(layer, SpikeFed):
            layer.__class__ = _class_for(type(layer))
        if threshold is not None:
            layer.threshold = threshold
    return net


def dense(net: Module) -> Module:
    """Undo :func:`event_driven`: every layer gets the class back that it had.

    Layers that were built event-driven become torch's too. A subclass of these that is a user's own
    stays as it is. Parametrizations stay in place.

    Args:
        net: Any network; its layers are changed in place.

    Returns:
        The network.
    """
    for layer in net.modules():
        cls = _dense_class(type(layer), parametrized=parametrize.is_parametrized(layer))
        if cls is not None:
            vars(layer).pop("_threshold", None)
            layer.__class__ = cls
    return net


def _layers(net: nn.Module) -> dict[str, Any]:
    """The layers that may add events, by name."""
    neurons = [name for name, module in net.named_modules() if is_neuron(module)]
    found = {}
    for name, module in net.named_modules():
        inside = any(name == n or name.startswith(f"{n}.") for n in neurons if n)
        if inside or _kind_of(type(module)) is None or parametrize.is_parametrized(module):
            continue
        if not isinstance(module, SpikeFed) and any(hasattr(module, given) for given in GIVEN):
            continue
        if any(is_lazy(parameter) for parameter in module.parameters(recurse=False)):
            raise ValueError(
                f"net: {name!r} ({type(module).__name__}) has yet to learn its sizes; call the "
                f"network once first"
            )
        found[name] = module
    return found


def _kind_of(cls: type) -> Any:
    """Our class for a layer that computes what torch's does; None for any other."""
    kind = next((kind for kind in KINDS if issubclass(cls, kind)), None)
    if kind is None or not all(_ends_in_torchs(cls, kind, name) for name in COMPUTING):
        return None
    return KINDS[kind]


def _ends_in_torchs(cls: type, kind: type, name: str) -> bool:
    """Whether a method is torch's, ours, or one of SpikingJelly's that calls torch's."""
    owner = next((base for base in cls.__mro__ if name in vars(base)), kind)
    if owner.__module__.startswith("spikingjelly."):
        return owner.__name__ == kind.__name__
    return owner.__module__.startswith(("torch.nn.modules.", "spikeloom.nn."))


def _fed_by_spikes(net: nn.Module, sample: Any) -> set[str]:
    """Names of the layers that receive nothing but spikes in a run on a sample."""
    watched = copied("net", net)
    to_rest(watched)
    found: dict[str, bool] = {}

    def watch(name: str, layer: SpikeFed) -> None:
        def look(module: nn.Module, args: Any, kwargs: Any) -> None:
            x = next(iter((*args, *kwargs.values())))
            operation = layer.operation()
            fed = operation is not None and is_spikes(operation, x)
            found[name] = found.get(name, True) and fed

        layer.register_forward_pre_hook(look, with_kwargs=True)

    for name, layer in _layers(event_driven(watched, threshold=0.0)).items():
        watch(name, layer)
    (call,) = batches(watched, [sample], name="sample", progress=False)
    with torch.no_grad():
        watched(*call.args, **call.kwargs)
    return {name for name, fed in found.items() if fed}


# --- Classes ---

# The dense class -> the one that adds events.
_classes: dict[type, Any] = dict(KINDS)


def _class_for(cls: type) -> Any:
    """The class of a layer of this class that adds events."""
    if cls not in _classes:
        own = {
            "__module__": __name__,
            "__doc__": cls.__doc__,
            "__reduce_ex__": _reduced,
            "dense_class": cls,
        }
        _classes[cls] = type(f"Spike{cls.__name__}", (cls, _kind_of(cls)), own)
    return _classes[cls]


def _dense_class(cls: type, *, parametrized: bool) -> Any:
    """The class that a layer of one of our classes had; None for any other.

    Args:
        cls: The layer's class.
        parametrized: Whether that is a subclass that computes parameters.
    """
    if not issubclass(cls, SpikeFed):
        return None
    if not parametrized:
        return cls.dense_class if _classes.get(cls.dense_class) is cls else None
    base = _dense_class(cls.__bases__[0], parametrized=False)
    if base is None:
        return None
    own = {n: value for n, value in vars(cls).items() if n not in ("__dict__", "__weakref__")}
    return type(f"Parametrized{base.__name__}", (base,), own)


def _reduced(layer: SpikeFed, protocol: Any) -> tuple[Any, ...]:
    """A layer for pickle and copy, which cannot name a class that was made here."""
    return _restored, (layer.dense_class,), vars(layer)


def _restored(cls: type[nn.Module]) -> Any:
    kind = _class_for(cls)
    return kind.__new__(kind)
