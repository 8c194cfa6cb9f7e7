"""An imported network as a graph again: the nodes it was made of, with the weights of today.

What a :class:`~spikeloom.export.Network` computes is stated by its graph, feedback included, so it
need not be observed. Weights may have been trained since; they are written as they are. A neuron
that was changed is noticed, because every node's output is compared with the module's.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator

import nir
import numpy as np
import torch
from torch import Tensor, nn

from spikeloom.export.building.comparison import (
    differing_readers,
    signals_of,
    silence,
    through_a_file,
)
from spikeloom.export.building.draft_graph import DraftGraph
from spikeloom.export.building.graph_builder import FLAGS
from spikeloom.export.forms.layers import Transparent
from spikeloom.export.graph.grids import MARKS
from spikeloom.export.graph.interpreter import Network
from spikeloom.export.refuse import NotExpressible, Offence, Refused, Verdict
from spikeloom.export.report import ExportReport
from spikeloom.export.targets.compatibility import judged

__all__ = ["graph_again", "written_again"]


def written_again(
    network: Network,
    sample: Tensor,
    dt: float,
    on_inexact: str,
    target: str,
    path: str | os.PathLike[str] | None,
) -> tuple[nir.NIRGraph, ExportReport]:
    """An imported network as a file: its graph with the weights of today.

    Args:
        network: The network.
        sample: As for :func:`spikeloom.export.to_nir`.
        dt: As there.
        on_inexact: As there.
        target: As there.
        path: As there.

    Raises:
        NotExpressible: If a module is no longer its node, or the target does not read one.
        ValueError: If the network was imported with another time step.
    """
    if dt != network.dt:
        raise ValueError(f"dt: the network was imported with dt={network.dt:g} s, got {dt:g}")
    try:
        graph = graph_again(network)
    except Refused as refusal:
        kind = type(network).__name__
        offence = Offence(kind, kind, Verdict.UNSUPPORTED, refusal.reason, refusal.remedy)
        raise NotExpressible([offence]) from refusal
    x = sample.detach().to("cpu", torch.float32)
    with torch.no_grad():
        signals = copy.deepcopy(network).to("cpu", torch.float32).eval().signals(x)
    offences, notes = _offences(network, graph, on_inexact, target)
    offences += _changed_nodes(network, signals, signals_of(graph, sample, dt))
    if offences:
        raise NotExpressible(offences)
    expected = signals[network.plan.output]
    graph.metadata |= {"target": target, "mismatch": 0.0}
    graph = through_a_file(graph, path, sample, dt, expected)
    readers = differing_readers(graph, sample, expected, target, dt)
    report = ExportReport.about(type(network).__name__, target, dt, 0.0, readers)
    for name, kind in _kinds(network).items():
        node = graph.nodes[name]
        verdict = Verdict.EXTENSION if isinstance(node, nir.NIRGraph) else Verdict.EXACT
        report.add(name, kind, verdict, type(node).__name__, 0.0, "")
    neurons = [name for name in _kinds(network) if hasattr(network.part(name), "neuron")]
    report.notes += [
        *silence((name, signals[name]) for name in neurons),
        f"The graph it was imported from, with its present weights; on the sample of shape "
        f"{list(sample.shape)} every node gives out what its module does.",
        *report.general_notes(),
        *notes,
    ]
    return graph, report


def _offences(
    network: Network, graph: nir.NIRGraph, on_inexact: str, target: str
) -> tuple[list[Offence], list[str]]:
    """What the flag or the target forbids, and what to say about other readers."""
    kinds = _kinds(network)
    offences = [
        Offence(name, kind, Verdict.EXTENSION, "only spikeloom reads it", FLAGS[Verdict.EXTENSION])
        for name, kind in kinds.items()
        if isinstance(graph.nodes[name], nir.NIRGraph) and on_inexact != "extension"
    ]
    stops, notes = judged(target, graph.nodes, graph.edges, network.dt)
    offences += [
        Offence(f.node, kinds.get(f.node, f.kind), Verdict.UNSUPPORTED, *f.refusal) for f in stops
    ]
    return offences, notes


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
    draft = DraftGraph(edges=list(plan.edges))
    for name, node in plan.nodes.items():
        inner = isinstance(node, (nir.Input, nir.Output)) and name not in (plan.input, plan.output)
        draft.nodes[name] = Transparent() if inner else _updated(node, network.part(name))
    for name in [n for n, node in draft.nodes.items() if isinstance(node, Transparent)]:
        draft.bypass(name)
    about = {**network.metadata, "written_by": "spikeloom", "dt": network.dt}
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


def _kinds(network: Network) -> dict[str, str]:
    """The class of each node's module, Input and Output left out."""
    ends = (nir.Input, nir.Output)
    nodes = network.plan.nodes.items()
    return {n: type(network.part(n)).__name__ for n, node in nodes if not isinstance(node, ends)}


def _changed_nodes(
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
    for name, kind in _kinds(network).items():
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
