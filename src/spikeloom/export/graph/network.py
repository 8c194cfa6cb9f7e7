"""A NIR graph as a torch module: the reference interpreter, and a model to train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

from spikeloom.export.dynamics import NEURONS, neuron_of
from spikeloom.export.extension import neuron_in
from spikeloom.export.modules import over_time, to_rest
from spikeloom.export.structure import MAX_NODES, Group, Plan, plan
from spikeloom.kernel.call import run
from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.vocabulary import Surrogate
from spikeloom.layer import SpikingLayer, current_parameters

__all__ = ["Network", "from_nir", "run_nir"]

Make = Callable[[Neuron], nn.Module]
State = tuple[Tensor, ...] | None


class _Stack(nn.Module):
    """A stack of matrices, each applied to its own row of the input."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        y = torch.matmul(self.weight, x.unsqueeze(-1)).squeeze(-1)
        return y if self.bias is None else y + self.bias


class Scale(nn.Module):
    """Multiplies each neuron's signal by a number of its own.

    Args:
        scale: One number for each neuron.
    """

    def __init__(self, scale: nn.Parameter) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        return x * self.scale


def _affine(node: nir.Affine | nir.Linear) -> nn.Module:
    weight = _parameter(node.weight)
    bias = None if isinstance(node, nir.Linear) else _parameter(node.bias)
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise ValueError(f"bias: {list(bias.shape)} does not fit weight {list(weight.shape)}")
    if weight.dim() != 2:
        return _Stack(weight, bias)
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    module.weight = weight
    module.register_parameter("bias", bias)
    return module


def _conv(node: nir.Conv1d | nir.Conv2d) -> nn.Module:
    kind = nn.Conv1d if isinstance(node, nir.Conv1d) else nn.Conv2d
    weight = np.asarray(node.weight)
    module = kind(
        weight.shape[1] * int(node.groups),
        weight.shape[0],
        weight.shape[2:],
        stride=_ints(node.stride),
        padding=node.padding if isinstance(node.padding, str) else _ints(node.padding),
        dilation=_ints(node.dilation),
        groups=int(node.groups),
        device="meta",
    )
    if np.shape(node.bias) != (weight.shape[0],):
        raise ValueError(f"bias: {np.shape(node.bias)} does not fit weight {weight.shape}")
    module.weight, module.bias = _parameter(weight), _parameter(node.bias)
    return module


def _pool(node: nir.AvgPool2d | nir.SumPool2d) -> nn.Module:
    total = 1 if isinstance(node, nir.SumPool2d) else None
    sizes = _ints(node.kernel_size), _ints(node.stride), _ints(node.padding)
    return nn.AvgPool2d(*sizes, divisor_override=total)


def _flatten(node: nir.Flatten) -> nn.Module:
    # NIR counts axes without the batch.
    start, end = (int(dim) + 1 if dim >= 0 else int(dim) for dim in (node.start_dim, node.end_dim))
    return nn.Flatten(start, end)


# Modules without a state; they see time and batch as one axis.
STATELESS: dict[type, Callable[[Any], nn.Module]] = {
    nir.Input: lambda node: nn.Identity(),
    nir.Output: lambda node: nn.Identity(),
    nir.Affine: _affine,
    nir.Linear: _affine,
    nir.Scale: lambda node: Scale(_parameter(node.scale)),
    nir.Conv1d: _conv,
    nir.Conv2d: _conv,
    nir.AvgPool2d: _pool,
    nir.SumPool2d: _pool,
    nir.Flatten: _flatten,
}


class _Delay(nn.Module):
    """The input of some steps ago; each neuron has its own delay."""

    steps: Tensor

    def __init__(self, node: nir.Delay, dt: float) -> None:
        super().__init__()
        delay = np.asarray(node.delay, dtype=np.float64)
        if not (np.isfinite(delay).all() and (delay >= 0).all()):
            raise ValueError("delay: must be finite and not negative")
        self.register_buffer("steps", torch.from_numpy(np.rint(delay / dt)).long())

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        longest = int(self.steps.max()) if self.steps.numel() else 0
        (past,) = state or (x.new_zeros(longest, *x.shape[1:]),)
        known = torch.cat([past, x])
        now = torch.arange(longest, len(known)).reshape(-1, *[1] * (x.dim() - 1))
        y = known.gather(0, (now - self.steps).expand_as(x)) if x.numel() else x
        return y, (known[len(x) :],)


class Network(nn.Module):
    """A NIR graph that can be run, and trained.

    Args:
        graph: The graph.
        dt: Time step in seconds.
        make: Builds the module of each spiking or integrating node from its description;
            ``plugins.<host>.make`` for a host's module.
        surrogate: The derivative of a spike, ATan by default.
        max_nodes: Larger graphs are refused.
        describe: From a node to its neuron; another one stands for another reader's arithmetic.

    Attributes:
        parts: The module of each node, dots in names replaced by underscores.
        plan: What runs after what.

    Raises:
        TypeError: If it is no graph.
        ValueError: If the graph cannot be run; the message names the node.

    Shape:
        - Input: ``[T, batch, *]``
        - Output: ``[T, batch, *]``
    """

    def __init__(
        self,
        graph: nir.NIRGraph,
        dt: float = 1e-4,
        make: Make = SpikingLayer,
        surrogate: Surrogate | None = None,
        max_nodes: int = MAX_NODES,
        describe: Callable[..., Neuron] = neuron_of,
    ) -> None:
        super().__init__()
        if isinstance(dt, bool) or not isinstance(dt, (int, float)) or not 0 < dt < float("inf"):
            raise ValueError(f"dt: must be a positive number of seconds, got {dt!r}")
        self.dt = float(dt)
        self.plan: Plan = plan(graph, max_nodes)
        self.parts = nn.ModuleDict()
        self._keys: dict[str, str] = {}
        for name, node in self.plan.nodes.items():
            key = name.replace(".", "_") or "_"
            while hasattr(self.parts, key):
                key += "_"
            self._keys[name] = key
            try:
                self.parts[key] = self._part(node, make, lambda n: describe(n, self.dt, surrogate))
            except (ValueError, TypeError, RuntimeError, AttributeError) as error:
                kind = type(node).__name__
                raise ValueError(f"node {name!r} ({kind}): {error}") from error

    def _part(
        self, node: nir.NIRNode, make: Make, describe: Callable[[nir.NIRNode], Neuron]
    ) -> nn.Module:
        if isinstance(node, nir.Threshold):  # a comparison, no neuron with a state
            return SpikingLayer(describe(node))
        if type(node) in NEURONS:
            return make(describe(node))
        if isinstance(node, nir.Delay):
            return _Delay(node, self.dt)
        if isinstance(node, nir.NIRGraph):
            return make(neuron_in(node))
        return STATELESS[type(node)](node)

    @property
    def has_loops(self) -> bool:
        """Whether signals are fed back, so that it runs step by step."""
        return any(group.delayed for group in self.plan.groups)

    def part(self, name: str) -> nn.Module:
        """The module of a node.

        Args:
            name: The node's name, ``outer.inner`` in a nested graph.
        """
        return self.parts[self._keys[name]]

    def forward(self, x: Tensor) -> Tensor:
        """Run the graph from rest over ``[T, batch, *]``."""
        return self.signals(x)[self.plan.output]

    def signals(self, x: Tensor) -> dict[str, Tensor]:
        """The output of every node.

        Args:
            x: Input of shape ``[T, batch, *]``.

        Raises:
            ValueError: If the input's shape is not the graph's, or two nodes do not fit.
        """
        if tuple(x.shape[2:]) != self.plan.shape or x.dim() < 2:
            expected = ", ".join(map(str, ("T", "batch", *self.plan.shape)))
            raise ValueError(f"x: the graph takes [{expected}], got {list(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(f"x: must be a floating-point tensor, got {x.dtype}")
        signals = {self.plan.input: x}
        for group in self.plan.groups:
            if group.delayed:
                signals.update(self._run_loop(group, signals, len(x)))
            elif group.nodes[0] != self.plan.input:
                (name,) = group.nodes
                signals[name], _ = self._run(name, self._sum(name, signals), None, whole=True)
        return signals

    def _run_loop(self, group: Group, outside: dict[str, Tensor], T: int) -> dict[str, Tensor]:
        """Run a loop step by step; a delayed edge carries what the last step left on it."""
        if not T:  # one step on zeros shows the shapes
            blank = {name: y.new_zeros(1, *y.shape[1:]) for name, y in outside.items()}
            return {name: y[:0] for name, y in self._run_loop(group, blank, 1).items()}
        history: dict[str, list[Tensor]] = {name: [] for name in group.nodes}
        states: dict[str, State] = dict.fromkeys(group.nodes)
        last: dict[str, Tensor] = {}
        for t in range(T):
            now: dict[str, Tensor] = {}
            for name in group.nodes:
                values = {}
                for source in self.plan.sources[name]:
                    if source in outside:
                        values[source] = outside[source][t : t + 1]
                    elif (source, name) not in group.delayed:
                        values[source] = now[source]
                    elif source in last:
                        values[source] = last[source]
                now[name], states[name] = self._run(name, self._sum(name, values), states[name])
                history[name].append(now[name])
            last = now
        return {name: torch.cat(steps) for name, steps in history.items()}

    def _sum(self, name: str, signals: dict[str, Tensor]) -> Tensor:
        """What a node receives; at the first step a delayed source is not there and counts as 0."""
        present = [signals[s] for s in self.plan.sources[name] if s in signals]
        total = present[0]
        for signal in present[1:]:
            if signal.shape != total.shape:
                raise ValueError(
                    f"node {name!r}: sums signals of shape {list(total.shape[2:])} and "
                    f"{list(signal.shape[2:])}"
                )
            total = total + signal
        return total

    def _run(self, name: str, x: Tensor, state: State, whole: bool = False) -> tuple[Tensor, State]:
        part = self.part(name)
        neuron = getattr(part, "neuron", None)
        try:
            if isinstance(part, _Delay):
                return part(x, state)
            if neuron is None:
                y = part(x.flatten(0, 1))
                return y.reshape(*x.shape[:2], *y.shape[1:]), None
            if whole:
                to_rest(part)
                return _output(over_time(part)(x)), None
            return run(neuron, x, state, params=current_parameters(part, neuron))
        except (RuntimeError, ValueError) as error:
            kind = type(self.plan.nodes[name]).__name__
            shape = list(x.shape[2:])
            raise ValueError(f"node {name!r} ({kind}) with input {shape}: {error}") from error


def _output(result: Any) -> Tensor:
    """The spikes among what a host's module returns; states may follow them."""
    return result[0] if isinstance(result, tuple) else result


def _parameter(array: Any) -> nn.Parameter:
    array = np.asarray(array)
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise ValueError(f"parameters must be finite numbers, got {array.dtype}")
    wide = array.dtype if array.dtype == np.float64 else np.float32
    return nn.Parameter(torch.from_numpy(array.astype(wide)))


def _ints(value: Any) -> Any:
    values = tuple(int(entry) for entry in np.atleast_1d(value))
    return values if len(values) > 1 else values[0]


def from_nir(
    graph: nir.NIRGraph,
    dt: float = 1e-4,
    make: Make = SpikingLayer,
    surrogate: Surrogate | None = None,
    max_nodes: int = MAX_NODES,
) -> Network:
    """A NIR graph as a model that trains.

    Args:
        graph: For example from :func:`spikeloom.export.read`.
        dt: Time step in seconds; that of the export.
        make: From a neuron description to a module: ``plugins.<host>.make`` for a host's nodes.
        surrogate: The derivative of a spike, ATan by default.
        max_nodes: Larger graphs are refused.

    Returns:
        A module from ``[T, batch, *]`` to ``[T, batch, *]`` whose weights are Parameters.

    Raises:
        TypeError: If ``graph`` is no NIRGraph.
        ValueError: If the graph cannot be run; the message names the node.

    Example:
        >>> import nir, numpy, torch
        >>> one = numpy.ones(2, "float32")
        >>> lif = nir.LIF(tau=2e-4 * one, r=one, v_leak=0 * one, v_threshold=one)
        >>> fc = nir.Linear(weight=numpy.eye(2, dtype="float32"))
        >>> net = from_nir(nir.NIRGraph.from_list(fc, lif))
        >>> net(torch.full((4, 1, 2), 1.6)).sum(0)
        tensor([[2., 2.]], grad_fn=<SumBackward1>)
    """
    return Network(graph, dt, make, surrogate, max_nodes)


def run_nir(graph: nir.NIRGraph, x: Tensor, dt: float = 1e-4, make: Make = SpikingLayer) -> Tensor:
    """Run a NIR graph: the reference interpreter.

    Args:
        graph: The graph.
        x: Input of shape ``[T, batch, *]``; computed in its dtype.
        dt: Time step in seconds.
        make: As for :func:`from_nir`.

    Returns:
        The output node's signal, ``[T, batch, *]``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the graph cannot be run or the input does not fit it.

    Example:
        >>> import nir, numpy, torch
        >>> one = numpy.ones(1, "float32")
        >>> lif = nir.LIF(tau=2e-4 * one, r=one, v_leak=0 * one, v_threshold=one)
        >>> run_nir(nir.NIRGraph.from_list(lif), torch.full((4, 1, 1), 1.6)).flatten()
        tensor([0., 1., 0., 1.])
    """
    network = Network(graph, dt, make).to(x.device, x.dtype if x.is_floating_point() else None)
    with torch.no_grad():
        return network(x)
