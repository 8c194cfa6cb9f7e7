"""From a trained model to a NIR file that was read back and compared."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import nir
import torch
from torch import Tensor, nn

from spikeloom.export.building.comparison import (
    differing,
    differing_readers,
    signals_of,
    silence,
    through_a_file,
)
from spikeloom.export.building.graph_builder import ALLOWED, GraphBuilder
from spikeloom.export.graph.interpreter import DT, Network
from spikeloom.export.reexport import written_again
from spikeloom.export.refuse import NotExpressible, Offence, Verdict
from spikeloom.export.report import ExportReport
from spikeloom.export.targets.profiles import PROFILES
from spikeloom.export.tracing.axis_matrices import matrices_for_moves
from spikeloom.export.tracing.few_spike_values import BY_VALUE, by_value, decoded, has_few_spikes
from spikeloom.export.tracing.signals import INPUT, Observation
from spikeloom.export.tracing.tracer import observe
from spikeloom.hosted import copied, to_rest

__all__ = ["to_nir"]

# Converted networks that compute in a way of their own, by where their modules are defined.
CONVERTED = {
    "spikeloom.convert.las": (
        "a module of a network converted by LAS, which computes with complete values in an order "
        "that no torch layer has",
        "build it of torch layers and neurons.OAT or neurons.HG, or convert a network of ReLUs by "
        "convert.SignGD",
    )
}


def to_nir(
    model: nn.Module,
    sample: Tensor,
    dt: float | None = None,
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
            a complete value, and so is each step of the file. For a converted network, what it
            takes, ``[batch, *]``, which then stays the same at every step; or all steps.
        dt: Time step in seconds that one step of the model becomes; None: 1e-4, or that of an
            imported network.
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
        NotExpressible: If a module cannot be written exactly; every such module is listed, and no
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
    sample = _over_time(model, sample)
    _check_arguments(model, sample, dt, on_inexact, target)
    if isinstance(model, Network):
        dt = model.dt if dt is None else float(dt)
        return written_again(model, sample, dt, on_inexact, target, path)
    dt = DT if dt is None else float(dt)
    layers = _layers(model)
    observed = observe(lambda: _ready(layers, sample), sample)
    _check_readout(type(model).__name__, layers, observed)
    observation = matrices_for_moves(observed, dense_token_mixing)
    composer = GraphBuilder(observation, dt, on_inexact, target)
    graph = composer.graph()
    signals = signals_of(graph, sample, dt)
    mismatch = _mismatch(layers, sample, observation, signals["output"])
    errors = composer.errors(signals)
    _refuse_if_different(composer, mismatch, errors)
    graph.metadata["mismatch"] = mismatch
    graph = through_a_file(graph, path, sample, dt, signals["output"])
    readers = differing_readers(graph, sample, observation.spikes, target, dt)
    report = ExportReport.about(type(model).__name__, target, dt, mismatch, readers)
    _add_rows(report, composer, graph, errors)
    outputs = ((site.name, y) for site in observation.neurons() for y in site.outputs)
    report.notes += [
        *silence(outputs),
        f"{mismatch:.2%} of the output differs on the sample of shape {list(sample.shape)}.",
        *report.general_notes(),
        *_readout_note(layers, observation),
        *observation.notes,
        *composer.notes,
    ]
    return graph, report


def _check_arguments(model: Any, sample: Any, dt: Any, on_inexact: str, target: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(sample, Tensor) or not sample.is_floating_point():
        given, remedy = type(sample).__name__, ""
        if isinstance(sample, Tensor):
            given, remedy = str(sample.dtype), "; sample.float() makes one"
        raise TypeError(
            f"sample: must be a floating-point tensor [T, batch, *], got {given}{remedy}"
        )
    if sample.dim() < 3 or not sample.numel():
        raise ValueError(
            f"sample: must have shape [T, batch, features...] and hold something, "
            f"got {list(sample.shape)}"
        )
    if not bool(torch.isfinite(sample).all()):
        raise ValueError("sample: must be finite, it holds NaN or infinity")
    number = isinstance(dt, (int, float)) and not isinstance(dt, bool)
    if dt is not None and not (number and 0 < dt < math.inf):
        raise ValueError(f"dt: must be a positive number of seconds, got {dt!r}")
    if on_inexact not in ALLOWED:
        raise ValueError(f"on_inexact: must be one of {', '.join(ALLOWED)}, got {on_inexact!r}")
    if target not in PROFILES:
        raise ValueError(f"target: must be one of {', '.join(PROFILES)}, got {target!r}")


def _over_time(model: nn.Module, sample: Any) -> Any:
    """The input of the layers, of what a converted network takes."""
    over_time = getattr(model, "over_time", None)
    return over_time(sample) if callable(over_time) else sample


def _layers(model: nn.Module) -> nn.Module:
    """The model, or the layers that a converted network says it consists of."""
    offences = [*_converted("", model)]
    if offences:
        raise NotExpressible(offences)
    as_layers = getattr(model, "as_layers", None)
    if not callable(as_layers):
        return model
    try:
        layers: nn.Module = as_layers()
    except ValueError as error:
        kind, reason = type(model).__name__, str(error).removeprefix("model: ")
        remedy = "convert and export the parts that take one tensor and return one"
        offence = Offence(kind, kind, Verdict.UNSUPPORTED, reason, remedy)
        raise NotExpressible([offence]) from error
    return layers


def _converted(name: str, module: nn.Module) -> Iterator[Offence]:
    """The outermost modules that compute in a way of their own."""
    kind = type(module).__name__
    for home, why in CONVERTED.items():
        if type(module).__module__.startswith(home):
            yield Offence(name or kind, kind, Verdict.UNSUPPORTED, *why)
            return
    for child, inner in module.named_children():
        yield from _converted(f"{name}.{child}" if name else child, inner)


def _ready(model: nn.Module, sample: Tensor) -> nn.Module:
    """A copy at rest that computes at each step what the file shall compute at that step."""
    if has_few_spikes(model):
        return by_value(lambda: _at_rest(model), sample)
    return _at_rest(model)


def _at_rest(model: nn.Module) -> nn.Module:
    fresh = copied("model", model)
    to_rest(fresh)
    return fresh.eval()


def _refuse_if_different(composer: GraphBuilder, mismatch: float, errors: dict[str, float]) -> None:
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


def _check_readout(name: str, layers: nn.Module, observation: Observation) -> None:
    """The file sums the spikes of a value; a model that takes their mean gives something else."""
    if observation.readout.startswith("mean") and has_few_spikes(layers):
        reason = "ends in a mean over the K spikes of a value, of which the file gives the sum"
        remedy = "use .sum(0), and divide what the file gives by K"
        raise NotExpressible([Offence(name, name, Verdict.UNSUPPORTED, reason, remedy)])


def _readout_note(layers: nn.Module, observation: Observation) -> list[str]:
    # With few-spike neurons the sum over a value's own time is what the file gives.
    if has_few_spikes(layers):
        return [BY_VALUE]
    if observation.readout:
        return [f"The {observation.readout} of the output is left to the reader."]
    return []


def _mismatch(layers: nn.Module, sample: Tensor, observation: Observation, output: Tensor) -> float:
    """The share of the output that the graph gets wrong."""
    mismatch = differing(output, observation.spikes)
    if has_few_spikes(layers):
        mismatch = max(mismatch, differing(output, decoded(_at_rest(layers), sample)))
    return mismatch


def _add_rows(
    report: ExportReport, composer: GraphBuilder, graph: nir.NIRGraph, errors: dict[str, float]
) -> None:
    """A row for each module: what was written for it, and how true that is."""
    for name, entry in composer.entries.items():
        if name != INPUT:
            kinds = Counter(type(graph.nodes[node]).__name__ for node in entry.nodes)
            nodes = ", ".join(kind if n == 1 else f"{n} {kind}" for kind, n in kinds.items())
            verdict = entry.piece.verdict
            report.add(name, entry.site.kind, verdict, nodes, errors.get(name), entry.note)
