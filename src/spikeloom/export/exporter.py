"""From a trained model to a NIR file that was read back and compared."""

from __future__ import annotations

import copy
import math
import os
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nir
import torch
from torch import Tensor, nn

from spikeloom.export.compose import (
    ALLOWED,
    FLAGS,
    Composer,
    differing,
    differing_readers,
    output_of,
    signals_of,
)
from spikeloom.export.dense import matrices_for_moves
from spikeloom.export.modules import to_rest
from spikeloom.export.network import Network
from spikeloom.export.observe import INPUT, observe
from spikeloom.export.profiles import PROFILES, judged
from spikeloom.export.reexport import changed_nodes, graph_again, kinds_in, refused
from spikeloom.export.refuse import NotExpressible, Offence, Verdict
from spikeloom.export.values import BY_VALUE, by_value, decoded, has_few_spikes
from spikeloom.export.weights import Refused
from spikeloom.files import whole_file
from spikeloom.report import Report

__all__ = ["ExportReport", "to_nir"]


COLUMNS = ("module", "kind", "verdict", "nodes", "mismatch", "note")


@dataclass
class ExportReport(Report):
    """What was written for each module, and how it compares.

    Attributes:
        mismatch: Share of the output's entries on the sample in which the model differs from the
            file as it was read back.
        readers: The same share for each framework's reader, computed in its arithmetic.
        target: For whom it was written.
        dt: Time step in seconds.
    """

    mismatch: float = math.nan
    readers: dict[str, float] = field(default_factory=dict)
    target: str = ""
    dt: float = math.nan

    def as_dict(self) -> dict[str, Any]:
        """The table, and the numbers that concern the whole model."""
        return {
            **super().as_dict(),
            "target": self.target,
            "dt": self.dt,
            "mismatch": self.mismatch,
            "readers": self.readers,
        }


def to_nir(
    model: nn.Module,
    sample: Tensor,
    dt: float = 1e-4,
    on_inexact: str = "raise",
    target: str = "portable",
    path: str | os.PathLike[str] | None = None,
    *,
    dense_token_mixing: bool = False,
) -> tuple[nir.NIRGraph, ExportReport]:
    """Write a model as a NIR graph and prove on a sample that the file computes the same.

    The model, a copy of it in evaluation mode and at rest, runs once on the sample. What it
    computes becomes nodes; the graph is written to a file, read back with ``nir.read`` and run by
    :func:`spikeloom.export.run_nir`, and its output is compared with the model's.

    Args:
        model: A torch model of any of the supported frameworks, or of none, that takes
            ``[T, batch, *]``, or one step ``[batch, *]`` at each call. A converted network is
            written through its ``as_layers()``.
        sample: Input of shape ``[T, batch, *]``. For a model with few-spike neurons each step is
            a complete value, and so is each step of the file.
        dt: Time step in seconds that one step of the model becomes.
        on_inexact: ``"raise"``; ``"subgraph"`` allows neurons that are exact as several nodes;
            ``"approximate"`` allows the nearest single node, its error measured;
            ``"extension"`` allows nodes that only spikeloom reads.
        target: Who shall read it; ``"portable"`` for SpikingJelly, snnTorch and Norse alike,
            ``"nir"`` for any reader that does what NIR says, or one of
            ``spikeloom.export.PROFILES``.
        path: Where to write the file; None keeps none.
        dense_token_mixing: Write layers behind moved axes (permutations, concatenations, as in
            :class:`spikeloom.models.SpikingMLP`, its norms folded) as matrices over all axes.
            Most of their entries are zeros; the report states their size, at most 1 GiB.

    Returns:
        The graph as it was read back, and a report of every module.

    Raises:
        NotExpressible: If a module cannot be written truly; every such module is listed, and no
            file is written or replaced.
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a wrong value, or the model does not fit the sample.

    Example:
        >>> import torch, spikeloom
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(3, 2), spikeloom.SpikingLayer(spikeloom.neurons.LIF()))
        >>> graph, report = to_nir(net, torch.rand(8, 4, 3))
        >>> sorted(graph.nodes), report.mismatch
        (['0', '1', 'input', 'output'], 0.0)
    """
    _check_arguments(model, sample, dt, on_inexact, target)
    if isinstance(model, Network):
        return _written_again(model, sample, float(dt), on_inexact, target, path)
    layers = _layers(model)
    observed = observe(lambda: _ready(layers, sample), sample)
    observation = matrices_for_moves(observed, dense_token_mixing)
    composer = Composer(observation, float(dt), on_inexact, target)
    graph = composer.graph()
    signals = signals_of(graph, sample, dt)
    mismatch = differing(signals["output"], observation.spikes)
    if has_few_spikes(layers):
        composer.notes.append(BY_VALUE)
        # The sum over a value's own time is what the file gives.
        observation.notes[:] = [note for note in observation.notes if "sum over time" not in note]
        own = decoded(_at_rest(layers), sample)
        mismatch = max(mismatch, differing(signals["output"], own))
    errors = composer.errors(signals)
    _refuse_if_different(composer, mismatch, errors)
    graph.metadata["mismatch"] = mismatch
    graph = _through_a_file(graph, path, sample, dt, signals["output"])
    report = ExportReport(
        f"{type(model).__name__} as NIR for {target}",
        COLUMNS,
        mismatch=mismatch,
        readers=differing_readers(graph, sample, observation.spikes, target, float(dt)),
        target=target,
        dt=float(dt),
    )
    for name, entry in composer.entries.items():
        if name == INPUT:
            continue
        kinds = Counter(type(graph.nodes[node]).__name__ for node in entry.nodes)
        nodes = ", ".join(kind if n == 1 else f"{n} {kind}" for kind, n in kinds.items())
        verdict = entry.piece.verdict
        report.add(name, entry.site.kind, verdict, nodes, errors.get(name), entry.note)
    report.notes += [
        f"{mismatch:.2%} of the output differs on the sample of shape {list(sample.shape)}.",
        f"Target {target}, {PROFILES[target].checked}.",
        *(
            f"{reader} rounds differently: {share:.2%} of the output differs there; a time "
            f"constant of a power of two steps is rounded alike everywhere."
            for reader, share in report.readers.items()
            if share
        ),
        *observation.notes,
        *composer.notes,
    ]
    return graph, report


def _written_again(
    network: Network,
    sample: Tensor,
    dt: float,
    on_inexact: str,
    target: str,
    path: str | os.PathLike[str] | None,
) -> tuple[nir.NIRGraph, ExportReport]:
    """An imported network: its graph with the weights of today."""
    if dt != network.dt:
        raise ValueError(f"dt: the network was imported with dt={network.dt:g} s, got {dt:g}")
    try:
        graph = graph_again(network)
    except Refused as refusal:
        raise NotExpressible([refused(network, refusal)]) from refusal
    kinds = kinds_in(network)
    offences = [
        Offence(name, kind, Verdict.EXTENSION, "only spikeloom reads it", FLAGS[Verdict.EXTENSION])
        for name, kind in kinds.items()
        if isinstance(graph.nodes[name], nir.NIRGraph) and on_inexact != "extension"
    ]
    stops, notes = judged(target, graph.nodes, graph.edges, dt)
    offences += [
        Offence(f.node, kinds.get(f.node, f.kind), Verdict.UNSUPPORTED, *f.refusal) for f in stops
    ]
    x = sample.detach().to("cpu", torch.float32)
    with torch.no_grad():
        signals = copy.deepcopy(network).to("cpu", torch.float32).eval().signals(x)
    again = signals_of(graph, sample, dt)
    offences += changed_nodes(network, signals, again)
    if offences:
        raise NotExpressible(offences)
    expected = signals[network.plan.output]
    graph.metadata |= {"target": target, "mismatch": 0.0}
    graph = _through_a_file(graph, path, sample, dt, expected)
    report = ExportReport(
        f"{type(network).__name__} as NIR for {target}",
        COLUMNS,
        mismatch=0.0,
        readers=differing_readers(graph, sample, expected, target, dt),
        target=target,
        dt=dt,
    )
    for name, kind in kinds.items():
        verdict = Verdict.EXACT
        if isinstance(graph.nodes[name], nir.NIRGraph):
            verdict = Verdict.EXTENSION
        report.add(name, kind, verdict, type(graph.nodes[name]).__name__, 0.0, "")
    report.notes += [
        f"The graph it was imported from, with its present weights; on the sample of shape "
        f"{list(sample.shape)} every node gives out what its module does.",
        f"Target {target}, {PROFILES[target].checked}.",
        *notes,
    ]
    return graph, report


def _check_arguments(model: Any, sample: Any, dt: Any, on_inexact: str, target: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(sample, Tensor) or not sample.is_floating_point():
        given = sample.dtype if isinstance(sample, Tensor) else type(sample).__name__
        raise TypeError(f"sample: must be a floating-point tensor [T, batch, *], got {given}")
    if sample.dim() < 3 or not sample.numel():
        raise ValueError(
            f"sample: must have shape [T, batch, features...] and hold something, "
            f"got {list(sample.shape)}"
        )
    if not bool(torch.isfinite(sample).all()):
        raise ValueError("sample: must be finite, it holds NaN or infinity")
    if isinstance(dt, bool) or not isinstance(dt, (int, float)) or not 0 < dt < math.inf:
        raise ValueError(f"dt: must be a positive number of seconds, got {dt!r}")
    if on_inexact not in ALLOWED:
        raise ValueError(f"on_inexact: must be one of {', '.join(ALLOWED)}, got {on_inexact!r}")
    if target not in PROFILES:
        raise ValueError(f"target: must be one of {', '.join(PROFILES)}, got {target!r}")


def _layers(model: nn.Module) -> nn.Module:
    """The model, or the layers that a converted network says it consists of."""
    as_layers = getattr(model, "as_layers", None)
    return as_layers() if callable(as_layers) else model


def _ready(model: nn.Module, sample: Tensor) -> nn.Module:
    """A copy at rest that computes at each step what the file shall compute at that step."""
    if has_few_spikes(model):
        return by_value(lambda: _at_rest(model), sample)
    return _at_rest(model)


def _at_rest(model: nn.Module) -> nn.Module:
    try:
        fresh = copy.deepcopy(model)
    except RuntimeError as error:
        raise ValueError(
            f"model: cannot be copied ({error}); reset its neurons' states first"
        ) from error
    to_rest(fresh)
    return fresh.eval()


def _refuse_if_different(composer: Composer, mismatch: float, errors: dict[str, float]) -> None:
    """Nothing that differs on the sample is called exact."""
    wrong = {name: error for name, error in errors.items() if error}
    if composer.on_inexact == "approximate" or not (mismatch or wrong):
        return
    first = next(iter(wrong), next(reversed(composer.entries)))
    raise NotExpressible(
        [
            Offence(
                first,
                composer.entries[first].site.kind,
                Verdict.APPROXIMATE,
                "the graph does not compute what the model computes on the sample, by rounding or "
                "because a signal is used at another step than the one it belongs to",
                'allow it with on_inexact="approximate"',
                max(mismatch, wrong.get(first, 0.0)),
            )
        ]
    )


def _through_a_file(
    graph: nir.NIRGraph,
    path: str | os.PathLike[str] | None,
    sample: Tensor,
    dt: float,
    expected: Tensor,
) -> nir.NIRGraph:
    """Write the graph, read it back and compare, before the file takes its place."""
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            return _through_a_file(graph, Path(folder, "graph.nir"), sample, dt, expected)
    with whole_file(path) as temporary:
        nir.write(temporary, graph)
        again = nir.read(temporary)
        if not torch.equal(output_of(again, sample, dt), expected):
            raise RuntimeError(f"path: {path} does not read back as it was written")
    return again
