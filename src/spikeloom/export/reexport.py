"""An imported network as a graph again: the nodes it was made of, with the weights of today.

What a :class:`~spikeloom.export.Network` computes is stated by its graph, feedback included, so it
need not be observed. Weights may have been trained since; they are written as they are. A neuron
that was changed is noticed, because every node's output is compared with the module's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import nir
import numpy as np
from torch import Tensor, nn

from spikeloom.export.draft import Draft
from spikeloom.export.grids import MARKS
from spikeloom.export.network import Network
from spikeloom.export.refuse import Offence, Verdict
from spikeloom.export.weights import Refused, Transparent

__all__ = ["changed_nodes", "graph_again", "kinds_in", "refused"]


def graph_again(network: Network) -> nir.NIRGraph:
    """The graph of an imported network, nested graphs unfolded, with its present weights.

    Args:
        network: From :func:`spikeloom.export.from_nir`.

    Raises:
        Refused: If a nested graph passes one signal twice to the same node.

    Example:
        >>> import nir, numpy
        >>> from spikeloom.export import from_nir
        >>> fc = nir.Linear(weight=numpy.eye(2, dtype="float32"))
        >>> network = from_nir(nir.NIRGraph.from_list(fc))
        >>> network.part("linear").weight.data *= 3
        >>> graph_again(network).nodes["linear"].weight
        array([[3., 0.],
               [0., 3.]], dtype=float32)
    """
    plan = network.plan
    draft = Draft(edges=list(plan.edges))
    for name, node in plan.nodes.items():
        inner = isinstance(node, (nir.Input, nir.Output)) and name not in (plan.input, plan.output)
        draft.nodes[name] = Transparent() if inner else _updated(node, network.part(name))
    for name in [n for n, node in draft.nodes.items() if isinstance(node, Transparent)]:
        draft.bypass(name)
    about = {"written_by": "spikeloom", "dt": network.dt}
    return nir.NIRGraph(nodes=draft.nodes, edges=draft.edges, metadata=about)


def _updated(node: nir.NIRNode, part: nn.Module) -> nir.NIRNode:
    """A copy of a node with the weights that its module holds."""
    node = copy.copy(node)
    if hasattr(part, "neuron"):
        return node
    for name, value in part.named_parameters():
        if not hasattr(node, name):  # another module has taken its place, which will be noticed
            return node
        now = value.detach().cpu().float().numpy().copy()
        if not np.array_equal(now, getattr(node, name)):
            kept = {key: told for key, told in node.metadata.items() if key not in MARKS}
            node.metadata = kept
        setattr(node, name, now)
    return node


def kinds_in(network: Network) -> dict[str, str]:
    """The class of each node's module, Input and Output left out.

    Args:
        network: The network.
    """
    ends = (nir.Input, nir.Output)
    nodes = network.plan.nodes.items()
    return {n: type(network.part(n)).__name__ for n, node in nodes if not isinstance(node, ends)}


def changed_nodes(
    network: Network, signals: dict[str, Tensor], again: dict[str, Tensor]
) -> Iterator[Offence]:
    """The nodes whose modules compute something else, all their sources being alike until then.

    Args:
        network: The network.
        signals: What its modules give out.
        again: What the nodes of its graph give out.
    """
    delayed = {edge for group in network.plan.groups for edge in group.delayed}
    first = {name: _first_step(signals[name], again[name]) for name in signals if name in again}
    for name, kind in kinds_in(network).items():
        causes = [
            first[source] + ((source, name) in delayed)
            for source in network.plan.sources[name]
            if source in first
        ]
        if first[name] < min([*causes, math.inf]):
            wrong = float((signals[name] != again[name]).float().mean())
            yield Offence(
                name,
                kind,
                Verdict.UNSUPPORTED,
                "its module computes something else than the node it was made from",
                "change the node in the graph and import it again",
                wrong,
            )


def _first_step(x: Tensor, y: Tensor) -> float:
    """The first step in which two signals differ."""
    steps = (x != y).flatten(1).any(1).nonzero()
    return float(steps[0]) if len(steps) else math.inf


def refused(network: Network, refusal: Refused) -> Offence:
    """What it is in the whole network that cannot be written.

    Args:
        network: The network.
        refusal: Why.
    """
    kind = type(network).__name__
    return Offence(kind, kind, Verdict.UNSUPPORTED, refusal.reason, refusal.remedy)
