"""SpikingLayer: a neuron as a torch module that belongs to no framework."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from spikeloom.kernel.call import run
from spikeloom.kernel.choose import checked_implementation
from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.lengths import Lengths
from spikeloom.kernel.neuron import Gated, Neuron, Parameter, PerStep, tensor_of

__all__ = [
    "Implemented",
    "SpikingLayer",
    "as_now",
    "as_vectors",
    "checked_neuron",
    "current_parameters",
    "register_parameters",
]

Module = TypeVar("Module", bound=nn.Module)

WRAPPERS: dict[str, Callable[[Tensor], Parameter]] = {"step": PerStep, "gated": Gated}


def checked_neuron(neuron: Any) -> Neuron:
    """The argument of a module, if it is a description.

    Args:
        neuron: The argument.

    Raises:
        TypeError: If it is anything else.
    """
    if not isinstance(neuron, Neuron):
        kind = type(neuron).__name__
        got = f"the class {neuron.__name__}" if isinstance(neuron, type) else kind
        raise TypeError(f"neuron: must be a spikeloom.Neuron such as neurons.LIF(), got {got}")
    return neuron


def register_parameters(module: nn.Module, neuron: Neuron) -> None:
    """Give a module the neuron's tensors: learned ones as parameters, others as buffers.

    Args:
        module: Receives them under the neuron's parameter names.
        neuron: Whose tensors they are.
    """
    for name, value in neuron.params.items():
        tensor = tensor_of(value)
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(name, tensor)
        elif tensor is not None:
            module.register_buffer(name, tensor)


def current_parameters(module: nn.Module, neuron: Neuron) -> dict[str, Parameter]:
    """The neuron's tensors as the module holds them now, for ``run(..., params=)``."""
    found: dict[str, Parameter] = {}
    if not neuron.tensor_params:
        return found
    own = module.__dict__
    for name in neuron.tensor_params:
        # As getattr looks them up, which takes longer.
        tensor = own["_parameters"].get(name)
        if tensor is None:
            tensor = own["_buffers"].get(name)
        if tensor is None or name in own:
            tensor = getattr(module, name)
        kind = neuron.kinds[name]
        found[name] = WRAPPERS[kind](tensor) if kind in WRAPPERS else tensor
    return found


def as_vectors(net: Module) -> Module:
    """Give learned single values one dimension, for what shards parameters along one.

    ``torch.distributed.fsdp.fully_shard`` refuses parameters without a dimension, such as a learned
    time constant. Load weights first, then call this, then shard. What such a network saves loads
    into the network as it is made, and into the frameworks' own neurons.

    Args:
        net: Its parameters of shape ``[]`` are replaced by such of shape ``[1]``, with new
            gradients and the same values.

    Returns:
        The network.

    Example:
        >>> import torch, spikeloom
        >>> tau = torch.nn.Parameter(torch.tensor(2.0))
        >>> layer = as_vectors(spikeloom.SpikingLayer(spikeloom.neurons.LIF(tau=tau)))
        >>> layer.tau.shape
        torch.Size([1])
        >>> layer(torch.full((4, 1), 1.5)).detach().flatten()
        tensor([0., 1., 0., 1.])
    """
    vectors: dict[nn.Parameter, nn.Parameter] = {}  # a value that modules share stays one
    for module in net.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            if not value.dim():
                if value not in vectors:
                    vectors[value] = nn.Parameter(value.detach()[None], value.requires_grad)
                setattr(module, name, vectors[value])
    return net


def as_now(module: nn.Module, neuron: Neuron) -> Neuron:
    """The neuron with the values that the module holds now; to be shown, not to be run.

    A description keeps the tensors that it was made with, and a module that is moved to another
    device or precision puts others into the places of its buffers.

    Args:
        module: The module that runs the neuron.
        neuron: The description.
    """
    now = copy.copy(neuron)
    vars(now)["params"] = Fixed({**neuron.params, **current_parameters(module, neuron)})
    return now


class Implemented:
    """Mixin of a module that runs a neuron: the implementation, checked when it is set."""

    _implementation = "auto"

    @property
    def implementation(self) -> str:
        """What runs the neuron, as for :func:`spikeloom.run`."""
        return self._implementation

    @implementation.setter
    def implementation(self, name: str) -> None:
        self._implementation = checked_implementation(name)


class SpikingLayer(Implemented, nn.Module):
    """A neuron as a module: time first, a fresh state at each call.

    Args:
        neuron: What to run. Its tensors become the module's parameters (if they are Parameters)
            or buffers, so they train, move and save with it. Modules made of one description
            share its tensors; for tensors of their own give each a ``copy.deepcopy``.
        implementation: As for :func:`spikeloom.run`; it may also be set later.

    Raises:
        TypeError: If ``neuron`` is no Neuron.
        ValueError: If the implementation is unknown.

    Shape:
        - Input: ``[T, batch, *]``
        - Output: ``[T, batch, *]``

    Example:
        >>> import torch, spikeloom
        >>> layer = spikeloom.SpikingLayer(spikeloom.neurons.LIF(tau=2.0))
        >>> layer(torch.full((4, 1, 2), 1.5)).sum(0)
        tensor([[2., 2.]])
    """

    # Tracers (torch.fx, nirtorch) must never look inside and lose the neuron.
    _is_leaf_module = True

    def __init__(self, neuron: Neuron, *, implementation: str = "auto") -> None:
        super().__init__()
        self.neuron = checked_neuron(neuron)
        self.implementation = implementation
        register_parameters(self, neuron)

    def forward(self, x: Tensor | tuple[Tensor, ...], lengths: Lengths = None) -> Any:
        """Run the neuron from rest.

        Args:
            x: ``[T, batch, *]``, a tuple of them for several inputs.
            lengths: How many steps each sequence of the batch has, as for :func:`spikeloom.run`.
        """
        params = current_parameters(self, self.neuron)
        y, _ = run(
            self.neuron, x, lengths=lengths, params=params, implementation=self.implementation
        )
        return y

    def extra_repr(self) -> str:
        """The neuron and its implementation."""
        return f"{as_now(self, self.neuron)}, implementation={self.implementation!r}"
