"""A NIR graph as a torch module: the reference interpreter, and a model to train."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

from spikeloom.export.graph.dynamics import NEURONS, largest_gain, neuron_of
from spikeloom.export.graph.execution_plan import MAX_NODES, Group, Plan, plan
from spikeloom.export.graph.extension import neuron_in
from spikeloom.export.graph.torch_layers import STATELESS, Delay, State
from spikeloom.hosted import Make, made, spikes_from_rest
from spikeloom.kernel.call import run
from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.vocabulary import Surrogate
from spikeloom.layer import SpikingLayer, current_parameters

__all__ = ["Network", "from_nir", "run_nir"]

# The time step of a graph that does not state its own.
DT = 1e-4
# Potentials that gain less in a step hardly move.
SMALL = 1e-3


class Network(nn.Module):
    """A NIR graph that can be run, and trained.

    Args:
        graph: The graph.
        dt: Time step in seconds. None: the one that the graph's metadata state, as files from
            ``to_nir`` do; without them 1e-4.
        make: Builds the module of each spiking or integrating node from its description;
            ``plugins.<host>.make`` for a host's module.
        surrogate: The derivative of a spike, ATan by default.
        max_nodes: Larger graphs are refused.
        describe: From a node to its neuron; another one stands for another reader's arithmetic.
        dtype: The precision of all tensors, torch's default one if None. Neurons' constants have
            float32 precision in any case, as files have it.

    Attributes:
        parts: The module of each node, dots in names replaced by underscores.
        plan: What runs after what.
        metadata: What the graph says about itself.

    Raises:
        TypeError: If it is no graph, or ``dtype`` no floating-point dtype.
        ValueError: If the graph cannot be run; the message names the node.

    Shape:
        - Input: ``[T, batch, *]``
        - Output: ``[T, batch, *]``
    """

    def __init__(
        self,
        graph: nir.NIRGraph,
        dt: float | None = None,
        make: Make = SpikingLayer,
        surrogate: Surrogate | None = None,
        max_nodes: int = MAX_NODES,
        describe: Callable[..., Neuron] = neuron_of,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dtype = _precision(dtype)
        self.plan: Plan = plan(graph, max_nodes)
        self.dt = _time_step(graph, dt)
        self.metadata = dict(graph.metadata or {})
        self.parts = nn.ModuleDict()
        self._keys: dict[str, str] = {}
        for name, node in self.plan.nodes.items():
            key = name.replace(".", "_") or "_"
            while hasattr(self.parts, key):
                key += "_"
            self._keys[name] = key
            with _naming(name, node):
                part = self._part(node, lambda n: describe(n, self.dt, surrogate))
            # What is wrong with a host's function is no fault of the node.
            module = made(make, part) if isinstance(part, Neuron) else part
            self.parts[key] = module.to(dtype)
        if dt is None and "dt" not in self.metadata:
            _warn_of_silence(self.plan, self.dt)

    def _part(
        self, node: nir.NIRNode, describe: Callable[[nir.NIRNode], Neuron]
    ) -> nn.Module | Neuron:
        if isinstance(node, nir.Threshold):  # a comparison, no neuron with a state
            return SpikingLayer(describe(node))
        if type(node) in NEURONS:
            return describe(node)
        if isinstance(node, nir.Delay):
            return Delay(node, self.dt)
        if isinstance(node, nir.NIRGraph):
            return neuron_in(node)
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
            TypeError: If ``x`` is no floating-point tensor.
            ValueError: If the input's shape is not the graph's, or two nodes do not fit.
        """
        if not isinstance(x, Tensor):
            raise TypeError(
                f"x: must be a torch.Tensor [T, batch, *], got {type(x).__name__}; "
                f"torch.from_numpy makes one of an array"
            )
        if tuple(x.shape[2:]) != self.plan.shape or x.dim() < 2:
            expected = ", ".join(map(str, ("T", "batch", *self.plan.shape)))
            raise ValueError(f"x: the graph takes [{expected}], got {list(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(
                f"x: must be a floating-point tensor, got {x.dtype}; x.float() makes one"
            )
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
            if isinstance(part, Delay):
                return part(x, state)
            if neuron is None:
                y = part(x.flatten(0, 1))
                return y.reshape(*x.shape[:2], *y.shape[1:]), None
            if whole:
                return spikes_from_rest(part, x), None
            return run(neuron, x, state, params=current_parameters(part, neuron))
        except (RuntimeError, ValueError) as error:
            kind = type(self.plan.nodes[name]).__name__
            shape = list(x.shape[2:])
            raise ValueError(f"node {name!r} ({kind}) with input {shape}: {error}") from error


@contextmanager
def _naming(name: str, node: nir.NIRNode) -> Iterator[None]:
    """Say which node it is that has something wrong."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(f"node {name!r} ({type(node).__name__}): {error}") from error


def _precision(dtype: Any) -> torch.dtype:
    """The caller's precision, or torch's default one."""
    given = torch.get_default_dtype() if dtype is None else dtype
    if not (isinstance(given, torch.dtype) and given.is_floating_point):
        raise TypeError(f"dtype: must be a floating-point torch.dtype, got {dtype!r}")
    return given


def _time_step(graph: nir.NIRGraph, dt: Any) -> float:
    """The caller's time step, the one in the metadata, or the default."""
    given, name, remedy = dt, "dt", ""
    if dt is None:
        given = (graph.metadata or {}).get("dt", DT)
        name, remedy = "graph: metadata['dt']", "; pass dt to run it with another"
    number = isinstance(given, (int, float, np.integer, np.floating))
    if isinstance(given, bool) or not number or not 0 < given < math.inf:
        raise ValueError(f"{name}: must be a positive number of seconds, got {given!r}{remedy}")
    return float(given)


def _warn_of_silence(plan: Plan, dt: float) -> None:
    """Say that the default time step leaves every potential where it is, if it does."""
    gain = largest_gain(plan.nodes.values(), dt)
    if gain is not None and gain < SMALL:
        warnings.warn(
            f"graph: it states no time step, and in one of {dt:.0e} s, the default, an input of 1 "
            f"adds at most {gain:.1e} to a potential, so the graph may stay silent; if its "
            f"parameters are meant in steps, pass dt=1",
            stacklevel=4,
        )


def from_nir(
    graph: nir.NIRGraph,
    dt: float | None = None,
    make: Make = SpikingLayer,
    surrogate: Surrogate | None = None,
    max_nodes: int = MAX_NODES,
    dtype: torch.dtype | None = None,
) -> Network:
    """A NIR graph as a model that trains.

    Args:
        graph: For example from :func:`spikeloom.export.read`.
        dt: Time step in seconds. None: the one that the graph's metadata state, as files from
            ``to_nir`` do; without them 1e-4. A value given here wins over the metadata, on which
            NIR asks readers not to rely. A warning is given if there is neither and no potential
            would gain 1e-3 in a step from an input of 1, as with parameters meant in steps.
        make: From a neuron description to a module: ``plugins.<host>.make`` for a host's nodes.
        surrogate: The derivative of a spike, ATan by default.
        max_nodes: Larger graphs are refused.
        dtype: The precision of the model's tensors, whatever the graph's arrays have; torch's
            default one if None. Neurons' constants have float32 precision, as files have it.

    Returns:
        A module from ``[T, batch, *]`` to ``[T, batch, *]`` whose weights are Parameters.

    Raises:
        TypeError: If ``graph`` is no NIRGraph, or ``dtype`` no floating-point dtype.
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
    return Network(graph, dt, make, surrogate, max_nodes, dtype=dtype)


def run_nir(
    graph: nir.NIRGraph,
    x: Tensor,
    dt: float | None = None,
    make: Make = SpikingLayer,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Run a NIR graph: the reference interpreter.

    Args:
        graph: The graph.
        x: Input of shape ``[T, batch, *]``.
        dt: Time step in seconds. None: the one that the graph's metadata state, as files from
            ``to_nir`` do; without them 1e-4. A value given here wins over the metadata.
        make: As for :func:`from_nir`.
        dtype: The precision to compute in; that of ``x`` if None.

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
    if isinstance(x, Tensor) and x.is_floating_point():
        dtype = _precision(x.dtype if dtype is None else dtype)
        x = x.to(dtype)
    network = Network(graph, dt, make, dtype=dtype)
    if isinstance(x, Tensor):
        network = network.to(x.device)
    with torch.no_grad():
        return network(x)
