"""Neurons over DTensors: each rank runs the neurons that it holds, and nothing is sent.

Neurons do not see each other, so a sequence that is sharded along the batch or along features stays
so. Only where its time is sharded, or its values are sums that are still to be added up, it is
gathered first; and the gradient of a value that neurons of several ranks share is their sum.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel.neuron import Gated, Neuron, Parameter, PerStep, tensor_of
from spikeloom.kernel.vocabulary import with_grad

__all__ = ["check_unsharded", "is_sharded", "run_sharded"]

State = tuple[Tensor, ...]


def is_sharded(values: tuple[Any, ...]) -> bool:
    """Whether one of some values is a DTensor."""
    # Nobody can have made one who has not imported them, which takes a second.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and any(isinstance(value, module.DTensor) for value in values)


def check_unsharded(neuron: Neuron, state: Any, params: dict[str, Parameter]) -> None:
    """Refuse states and parameters that are DTensors where no input is one.

    Args:
        neuron: What is run over plain tensors.
        state: The states before the first step, or None.
        params: Values that replace the neuron's own.

    Raises:
        TypeError: If one is a DTensor.
    """
    values = {name: tensor_of(value) for name, value in {**neuron.params, **params}.items()}
    if isinstance(state, tuple):
        values.update(zip(neuron.state_names, state, strict=False))
    for name, value in values.items():
        if is_sharded((value,)):
            raise TypeError(
                f"{neuron.name}: {name!r} is a DTensor, and no input is one; distribute the input "
                f"as well, for example distribute_tensor(x, mesh, [Replicate()]) if all ranks have "
                f"the same, or call {name}.full_tensor()"
            )


def run_sharded(
    run: Callable[[State, State | None, dict[str, Parameter]], Any],
    neuron: Neuron,
    xs: State,
    state: State | None,
    params: dict[str, Parameter],
    single: bool,
) -> Any:
    """Run a neuron over inputs of which one is a DTensor, at least.

    Args:
        run: Runs it over plain tensors: inputs, states, and values that replace parameters.
        neuron: What is run.
        xs: The inputs. Plain ones are taken to be the same on all ranks, as are plain states and
            parameters.
        state: The states before the first step, or None.
        params: Values that replace the neuron's own.
        single: Whether the inputs are one step without a time axis.

    Returns:
        What ``run`` returns, as DTensors.
    """
    shards = _Shards(xs, 0 if single else 1)
    local_xs = tuple(shards.local(x, shards.axes) for x in xs)
    count = math.prod(local_xs[0].shape[shards.time :])
    of_state = [None if axis is None else axis - shards.time for axis in shards.axes]
    local_state = None if state is None else tuple(shards.local(v, of_state) for v in state)
    local_params = dict(params)
    for name in neuron.tensor_params:
        value = params.get(name, neuron.params[name])
        local_params[name] = _local(neuron, name, value, shards, count)
    y, *others = run(local_xs, local_state, local_params)
    ys = tuple(shards.whole(part) for part in y) if isinstance(y, tuple) else shards.whole(y)
    states, *sequences = others
    return ys, tuple(map(shards.whole, states)), *map(shards.whole, sequences)


class _Shards:
    """How the neurons of a call are spread over a mesh of ranks.

    Args:
        xs: The inputs.
        time: How many axes are before those of the neurons.

    Attributes:
        axes: For each dimension of the mesh the axis of the inputs that it shards, or None.
    """

    def __init__(self, xs: State, time: int) -> None:
        from torch.distributed.tensor import DTensor, Shard

        x = next(x for x in xs if isinstance(x, DTensor))
        self.mesh, self.time, self.shape = x.device_mesh, time, tuple(x.shape[time:])
        axes = [p.dim % x.dim() if type(p) is Shard else None for p in x.placements]
        self.axes = [None if axis is None or axis < time else axis for axis in axes]

    def local(self, value: Any, axes: list[int | None]) -> Any:
        """This rank's part of a value that is sharded along some axes, or is to be.

        Args:
            value: A tensor; anything else is returned as it is, to be refused.
            axes: For each dimension of the mesh an axis, or None: all ranks have the same.
        """
        from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

        if not isinstance(value, Tensor):
            return value
        if not isinstance(value, DTensor):
            same = [Replicate()] * self.mesh.ndim
            value = DTensor.from_local(value, self.mesh, same, run_check=False)
        wanted = [Replicate() if axis is None else Shard(axis) for axis in axes]
        # The neurons of each rank know their own part of the gradient of what they share.
        shares = [
            Partial() if own is None and along is not None else place
            for own, along, place in zip(axes, self.axes, wanted, strict=True)
        ]
        return value.redistribute(self.mesh, wanted).to_local(grad_placements=shares)

    def whole(self, value: Tensor) -> Tensor:
        """All ranks' parts of an output or a state as one DTensor."""
        from torch.distributed.tensor import DTensor, Replicate, Shard

        before = value.dim() - len(self.shape)
        shape = torch.Size((*value.shape[:before], *self.shape))
        stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        places = [
            Replicate() if axis is None else Shard(axis - self.time + before) for axis in self.axes
        ]
        return DTensor.from_local(
            value.contiguous(), self.mesh, places, run_check=False, shape=shape, stride=stride
        )


def _local(neuron: Neuron, name: str, value: Parameter, shards: _Shards, count: int) -> Parameter:
    """A parameter for the neurons of this rank, which are so many."""
    tensor = tensor_of(value)
    assert tensor is not None
    axes: list[int | None] = [None] * len(shards.axes)
    if neuron.kinds[name] == "neuron":
        # Its axes are the last ones of the neurons'.
        missing = shards.time + len(shards.shape) - tensor.dim()
        for number, axis in enumerate(shards.axes):
            if axis is not None and axis >= missing and tensor.shape[axis - missing] > 1:
                axes[number] = axis - missing
    local = shards.local(tensor, axes)
    whole, own = (neuron.gradient_scale(name, n) for n in (math.prod(shards.shape), count))
    if tensor.requires_grad and whole is not None and own is not None:
        # The gradient is scaled as for all neurons, not as for those of this rank.
        local = with_grad(local, (local, whole / own))
    return type(value)(local) if isinstance(value, (PerStep, Gated)) else local
