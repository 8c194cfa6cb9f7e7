"""Ways to write a neuron: nodes, how they hang together, and how true they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np

from spikeloom.export.refuse import Refused, Verdict

__all__ = ["FAR", "Layer", "Piece", "Wiring"]

# A weight that no finite signal outweighs.
FAR = float(np.finfo(np.float32).max)
# A neuron that needs more nodes is refused.
MOST_NODES = 2000


@dataclass(frozen=True)
class Layer:
    """What is known about the layer a neuron stands for.

    Attributes:
        shape: Its shape for one sample.
        dt: Time step in seconds.
        for_both: Whether some reader fires at the threshold, not only above.
        whole_inputs: Whether potentials are to be counted in units in which an input of 1 adds 1.
        steps: How many steps the sample has; None if it is not known.
        rest: Where its potentials begin.
    """

    shape: tuple[int, ...]
    dt: float
    for_both: bool = False
    whole_inputs: bool = False
    steps: int | None = None
    rest: np.ndarray = field(default_factory=lambda: np.zeros(()))

    def filled(self, value: Any) -> np.ndarray:
        """A value for each neuron, as float32."""
        return np.array(np.broadcast_to(np.asarray(value, dtype=np.float32), self.shape))

    def above_rest(self, potential: np.ndarray) -> np.ndarray:
        """A potential in the file, where every state begins at 0."""
        return potential - self.rest

    def integrator(self, gain: Any = 1.0) -> nir.I:
        """A node that adds up its input."""
        return nir.I(r=self.filled(gain / self.dt))

    def scale(self, value: Any) -> nir.Scale:
        """A node that multiplies."""
        return nir.Scale(scale=self.filled(value))

    def threshold(self, value: Any) -> nir.Threshold:
        """A node that is 1 above a value."""
        return nir.Threshold(threshold=self.filled(value))


@dataclass(frozen=True)
class Piece:
    """One way to write a neuron.

    Attributes:
        verdict: How true it is.
        nodes: NIR nodes by suffix, the empty suffix for a single node.
        edges: Between them.
        inlet: The suffix of the node that receives the input.
        outlet: The suffix of the node that fires.
        height: What a spike of the neuron is worth.
        note: What to know about it.
    """

    verdict: str
    nodes: dict[str, nir.NIRNode]
    edges: tuple[tuple[str, str], ...] = ()
    inlet: str = ""
    outlet: str = ""
    height: float = 1.0
    note: str = ""

    def graph(self, shape_in: tuple[int, ...], shape_out: tuple[int, ...]) -> nir.NIRGraph:
        """A graph of this neuron alone."""
        ends = {
            "input": nir.Input(input_type=np.array(shape_in)),
            "output": nir.Output(output_type=np.array(shape_out)),
        }
        inner = {f"neuron.{suffix}": node for suffix, node in self.nodes.items()}
        edges = [(f"neuron.{a}", f"neuron.{b}") for a, b in self.edges]
        edges += [("input", f"neuron.{self.inlet}"), (f"neuron.{self.outlet}", "output")]
        return nir.NIRGraph(nodes={**ends, **inner}, edges=edges)


@dataclass
class Wiring:
    """Nodes by suffix and the edges between them, as they are put together.

    Add them in the order in which a step runs them. The finished nodes are numbered, so that
    readers that go by name, as files are sorted, run them in this order too.

    Attributes:
        nodes: The nodes so far.
        edges: The edges so far; readers that add in order add in this one.
    """

    nodes: dict[str, nir.NIRNode] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, node: nir.NIRNode, *sources: str) -> str:
        """Add a node that sums its sources, and return its name."""
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def piece(self, inlet: str, outlet: str, note: str, fewer: str) -> Piece:
        """The finished subgraph.

        Args:
            inlet: The node that receives the input.
            outlet: The node that gives out the output.
            note: What to know about it.
            fewer: What would make it smaller.

        Raises:
            Refused: If it has become too large.
        """
        if len(self.nodes) > MOST_NODES:
            raise Refused(
                f"it takes {len(self.nodes)} nodes, more than {MOST_NODES} are not written", fewer
            )
        width = len(str(len(self.nodes)))
        names = {name: f"{i:0{width}}_{name}" for i, name in enumerate(self.nodes)}
        return Piece(
            Verdict.SUBGRAPH,
            {names[name]: node for name, node in self.nodes.items()},
            tuple((names[source], names[target]) for source, target in self.edges),
            names[inlet],
            names[outlet],
            note=note,
        )
