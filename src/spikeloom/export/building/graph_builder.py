"""From what was observed to a graph: each module's nodes, connected and simplified."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import nir
import numpy as np
import torch
from torch import Tensor, nn

from spikeloom.export.building.comparison import differing, signals_of
from spikeloom.export.building.draft_graph import DraftGraph
from spikeloom.export.forms.candidates import candidates
from spikeloom.export.forms.feedback import written_around
from spikeloom.export.forms.layers import (
    Bias,
    Norm,
    Transparent,
    bias_node,
    flatten_node,
    gain_node,
    require_counterpart,
    translate_layer,
)
from spikeloom.export.forms.node_groups import Layer, Piece
from spikeloom.export.graph.execution_plan import delayed_edges
from spikeloom.export.graph.grids import tell_of_grid
from spikeloom.export.refuse import NotExpressible, Offence, Refused, Verdict
from spikeloom.export.targets.compatibility import (
    fires_at_threshold,
    judged,
    needs_one_threshold,
    wants_whole_inputs,
)
from spikeloom.export.tracing.leaf_modules import begins
from spikeloom.export.tracing.signals import CONSEQUENCE, INPUT, Observation, Site
from spikeloom.kernel.neuron import Neuron, Parameter
from spikeloom.modules import circuit_of, neuron_within, values_of

__all__ = [
    "ALLOWED",
    "FLAGS",
    "Entry",
    "GraphBuilder",
]

# What a caller may allow beyond exact nodes, in the order of preference.
ALLOWED = {
    "raise": (Verdict.EXACT,),
    "subgraph": (Verdict.EXACT, Verdict.SUBGRAPH),
    "approximate": (Verdict.EXACT, Verdict.APPROXIMATE, Verdict.SUBGRAPH),
    "extension": (Verdict.EXACT, Verdict.SUBGRAPH, Verdict.EXTENSION),
}
FLAGS = {
    Verdict.SUBGRAPH: 'allow it with on_inexact="subgraph"',
    Verdict.APPROXIMATE: 'allow it with on_inexact="approximate"',
    Verdict.EXTENSION: 'allow it with on_inexact="extension"',
}


@dataclass
class Entry:
    """What became of one site.

    Attributes:
        site: The module or operation.
        name: The name of its node, or the stem of their names.
        piece: Its nodes.
        nodes: Those of them that are still in the graph.
        note: What to know about it.
    """

    site: Site
    name: str
    piece: Piece
    nodes: list[str] = field(default_factory=list)
    note: str = ""

    def node(self, suffix: str) -> str:
        """The full name of one of its nodes."""
        return f"{self.name}.{suffix}" if suffix else self.name


class GraphBuilder:
    """Builds the graph of an observation, and collects every offence on the way.

    Args:
        observation: What the model did.
        dt: Time step in seconds.
        on_inexact: What is allowed beyond exact nodes, a key of :data:`ALLOWED`.
        target: A key of ``PROFILES``.

    Attributes:
        entries: What became of each site, by its name.
        notes: What the report should say.
    """

    def __init__(self, observation: Observation, dt: float, on_inexact: str, target: str) -> None:
        self.observation = observation
        self.dt = dt
        self.on_inexact = on_inexact
        self.target = target
        self.entries: dict[str, Entry] = {}
        self.notes: list[str] = []
        self._draft = DraftGraph()
        self._offences: list[Offence] = []

    def graph(self) -> nir.NIRGraph:
        """The finished graph, its shapes checked.

        Raises:
            NotExpressible: If anything is in its way; all offences of a stage are listed.
        """
        stages = (self._write, self._connect, self._check_steps, self._simplify, self._check_target)
        for stage in stages:
            stage()
            if self._offences:
                raise NotExpressible(self._offences)
        self._tell_of_grids()
        about = {"written_by": "spikeloom", "dt": self.dt, "target": self.target}
        return nir.NIRGraph(nodes=self._draft.nodes, edges=self._draft.edges, metadata=about)

    # --- each module's nodes ------------------------------------------------------------------

    def _write(self) -> None:
        names = _node_names(site.name for site in self.observation.sites.values())
        for site in self.observation.sites.values():
            with self._refusing(site):
                # A class that NIR cannot state says more than what became of its calls.
                if site.module is not None and neuron_within(site.module) is None:
                    require_counterpart(site.module)
                if site.obstacle == CONSEQUENCE:
                    continue
                piece = self._piece(site)
                entry = Entry(site, names[site.name], piece, note=piece.note or site.note)
                entry.nodes = [entry.node(suffix) for suffix in piece.nodes]
                self._draft.nodes.update(zip(entry.nodes, piece.nodes.values(), strict=True))
                self._draft.edges += [(entry.node(a), entry.node(b)) for a, b in piece.edges]
                self.entries[site.name] = entry

    def _piece(self, site: Site) -> Piece:
        neuron = None if site.module is None else neuron_within(site.module)
        # That a neuron sums its input first says more than that its output has another length.
        if site.obstacle and (neuron is None or neuron.begin is None):
            raise Refused(site.obstacle, site.remedy)
        if site.name == INPUT:
            return _single(nir.Input(input_type=np.array(site.shape_in)))
        if site.module is None:
            return _single(flatten_node(site.shape_in))
        if neuron is None:
            return _single(translate_layer(site.module, site.shape_in, site.shape_out))
        pieces = self._pieces(site, site.module, neuron)
        for verdict in ALLOWED[self.on_inexact]:
            for piece in pieces:
                if piece.verdict == verdict:
                    return piece
        near = [piece for piece in pieces if piece.verdict == Verdict.APPROXIMATE]
        flags = " or ".join(FLAGS[piece.verdict] for piece in pieces)
        error = self._error_of(site, near[0]) if near else None
        self._offend(site, pieces[0].verdict, "NIR has no single node for it", flags, error)
        return pieces[0]

    def _pieces(self, site: Site, module: nn.Module, neuron: Neuron) -> list[Piece]:
        """The ways to write a neuron, or a circuit, the truest first."""
        circuit = circuit_of(module)
        if circuit is None:
            parameters, rest = values_of(module), begins(module, neuron)
        else:
            parameters, rest = dict(circuit.values), circuit.begins
        if site.map:
            parameters = {key: _flat(value, site.map) for key, value in parameters.items()}
            rest = None if rest is None else _flat(rest, site.map)
        for_both = fires_at_threshold(self.target)
        whole, steps = wants_whole_inputs(self.target), self.observation.lead[0]
        layer = Layer(site.shape_out, self.dt, for_both, whole, steps)
        pieces = candidates(neuron, parameters, layer, rest, self.on_inexact == "extension")
        if circuit is None:
            return pieces
        return [*map(written_around(circuit, site.shape_in, site.shape_out), pieces)]

    def _offend(
        self, site: Site, verdict: str, reason: str, remedy: str, error: float | None = None
    ) -> None:
        offence = Offence(*site.owner, verdict, reason, remedy, error)
        if offence not in self._offences:
            self._offences.append(offence)

    def _error_of(self, site: Site, piece: Piece) -> float:
        """How much of a neuron's output on the sample an approximation gets wrong."""
        x = self._over_time(site.inputs, site.shape_in)
        nodes = {
            name: bias_node(site.shape_out, node) if isinstance(node, Bias) else node
            for name, node in piece.nodes.items()
        }
        graph = replace(piece, nodes=nodes).graph(site.shape_in, site.shape_out)
        y = signals_of(graph, x, self.dt)["output"]
        return differing(y * piece.height, self._over_time(site.outputs, site.shape_out))

    def _over_time(self, calls: list[Tensor], shape: tuple[int, ...]) -> Tensor:
        lead = self.observation.lead
        return torch.cat([call.reshape(-1, *shape) for call in calls]).reshape(*lead, *shape)

    @contextmanager
    def _refusing(self, site: Site) -> Iterator[None]:
        """Turn a refusal into an offence of the site, and go on."""
        try:
            yield
        except Refused as refusal:
            self._offend(site, Verdict.UNSUPPORTED, refusal.reason, refusal.remedy)

    # --- connections --------------------------------------------------------------------------

    def _connect(self) -> None:
        draft = self._draft
        for entry in list(self.entries.values()):
            for source in sorted(entry.site.sources):
                draft.edges.append(self._edge(source, entry))
        shape = tuple(self.observation.spikes.shape[2:])
        ends = [self._outlet(source) for source in self.observation.output]
        if len(ends) > 1:
            # Not every reader sums what arrives at the output.
            draft.nodes["sum"] = gain_node(shape, 1.0)
            draft.edges += [(end, "sum") for end in ends]
            ends = ["sum"]
        draft.nodes["output"] = nir.Output(output_type=np.array(shape))
        draft.edges.append((ends[0], "output"))

    def _edge(self, source: str, entry: Entry) -> tuple[str, str]:
        return self._outlet(source), entry.node(entry.piece.inlet)

    def _check_steps(self) -> None:
        """What arrives late in the model must arrive late in the graph, and nothing else.

        A site's own steps may be counted from another one on than the model's: one that waits
        for feedback is called once before there is any.
        """
        delayed = delayed_edges(self._draft.edges)
        counted = {INPUT: 0}
        waiting = [INPUT]
        while waiting:
            source = waiting.pop()
            for name, entry in self.entries.items():
                if source not in entry.site.sources:
                    continue
                waits = self._edge(source, entry) in delayed
                own = counted[source] + waits - entry.site.sources[source]
                if name not in counted:
                    counted[name] = own
                    waiting.append(name)
                elif counted[name] != own:
                    self._offend(entry.site, Verdict.UNSUPPORTED, *_late(source))
        for name in self.observation.output:
            if counted.get(name, 0):
                self._offend(self.entries[name].site, Verdict.UNSUPPORTED, *_late(name))

    def _outlet(self, source: str) -> str:
        """The node that gives out what a site gives out."""
        entry = self.entries[source]
        outlet = entry.node(entry.piece.outlet)
        if entry.piece.height == 1.0:
            return outlet
        height = entry.node("height")
        if height not in self._draft.nodes:
            scale = np.full(entry.site.shape_out, entry.piece.height, np.float32)
            self._draft.nodes[height] = nir.Scale(scale=scale)
            self._draft.edges.append((outlet, height))
            entry.nodes.append(height)
        return height

    # --- simplification -----------------------------------------------------------------------

    def _simplify(self) -> None:
        for entry in list(self.entries.values()):
            for name in entry.nodes:
                with self._refusing(entry.site):
                    self._fold(entry, name)
            left = [name for name in entry.nodes if name in self._draft.nodes]
            if not left:
                entry.note = "folded into its neighbours"
            entry.nodes = left

    def _fold(self, entry: Entry, name: str) -> None:
        node = self._draft.nodes[name]
        if isinstance(node, Transparent):
            self._draft.bypass(name)
        elif isinstance(node, Norm):
            self._draft.fold_norm(name)
        elif isinstance(node, Bias):
            if not self._draft.fold_bias(name):
                self._draft.nodes[name] = bias_node(entry.site.shape_out, node)
        elif name == entry.node("height") and not self._draft.fold_height(name):
            self._draft.nodes[name] = gain_node(entry.site.shape_out, entry.piece.height)
        elif self._has_many_thresholds(node) and needs_one_threshold(self.target):
            neuron = neuron_within(entry.site.module or nn.Identity())
            at_threshold = getattr(neuron, "fires_at_threshold", False)
            self._draft.unify_threshold(name, at_threshold, fires_at_threshold(self.target))
            entry.note = "its thresholds are in the weights before it"

    @staticmethod
    def _has_many_thresholds(node: object) -> bool:
        return isinstance(node, (nir.LIF, nir.IF)) and np.unique(node.v_threshold).size > 1

    # --- the target ---------------------------------------------------------------------------

    def _check_target(self) -> None:
        owners = {node: entry for entry in self.entries.values() for node in entry.nodes}
        last = self.entries[self.observation.output[0]]
        draft = self._draft
        stops, notes = judged(self.target, draft.nodes, draft.edges, self.dt)
        for finding in stops:
            site = owners.get(finding.node, last).site
            self._offend(site, Verdict.UNSUPPORTED, *finding.refusal)
        self.notes += notes

    def _tell_of_grids(self) -> None:
        told = False
        for entry in self.entries.values():
            for name in entry.nodes:
                words = tell_of_grid(self._draft.nodes[name], entry.site.module)
                entry.note = ", ".join(filter(None, (entry.note, words)))
                told = told or bool(words)
        if told:
            self.notes.append(
                "Weights are written as float32, zeros included: NIR has no sparse or packed form. "
                "Bits, steps and sparsity stand in the metadata, which no reader needs."
            )

    # --- comparison ---------------------------------------------------------------------------

    def errors(self, signals: dict[str, Tensor]) -> dict[str, float]:
        """For each neuron, the share of its output that the graph gets wrong.

        Args:
            signals: The output of every node on the sample.
        """
        return {
            name: differing(
                signals[entry.node(entry.piece.outlet)] * entry.piece.height,
                self._over_time(entry.site.outputs, entry.site.shape_out),
            )
            for name, entry in self.entries.items()
            if entry.site.outputs
        }


def _late(source: str) -> tuple[str, str]:
    return (
        f"the output of {source} is used at another step than NIR delivers it",
        "let feedback, and nothing else, wait for the next step",
    )


def _flat(value: Parameter, shape: tuple[int, ...]) -> Parameter:
    """A parameter of a map, for its features in one row."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return value.detach().expand(shape).flatten()


def _single(node: nir.NIRNode | Norm | Transparent) -> Piece:
    return Piece(Verdict.EXACT, {"": node})


def _node_names(names: Iterable[str]) -> dict[str, str]:
    """A node name for each site: its own where the readers can take it."""
    taken = {"output", "sum"}
    result = {INPUT: "input"}
    modules = nn.ModuleDict()
    for name in names:
        stem = "".join(c if c.isalnum() or c in "._" else "_" for c in name)
        # nirtorch makes attributes of names, with dots as underscores.
        while name != INPUT and (
            stem.replace(".", "_") in taken | {"input"}
            or keyword.iskeyword(stem)
            or hasattr(modules, stem)
        ):
            stem += "_"
        taken.add(stem.replace(".", "_"))
        result.setdefault(name, stem)
    return result
