"""A graph beside what is meant: node by node, in each reader's arithmetic, and as a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import nir
import torch
from torch import Tensor

from spikeloom.export.graph.dynamics import NEURONS, neuron_of
from spikeloom.export.graph.interpreter import Network
from spikeloom.export.targets.compatibility import findings, readers
from spikeloom.files import whole_file
from spikeloom.kernel.neuron import Neuron

__all__ = [
    "differing",
    "differing_readers",
    "output_of",
    "signals_of",
    "silence",
    "through_a_file",
]

# Two outputs are equal if they differ by less than this share of the largest.
TOLERANCE = 1e-4


def signals_of(
    graph: nir.NIRGraph, x: Tensor, dt: float, describe: Callable[..., Neuron] = neuron_of
) -> dict[str, Tensor]:
    """The output of every node on an input, in float32."""
    with torch.no_grad():
        network = Network(graph, dt, describe=describe, dtype=torch.float32)
        return network.signals(x.detach().to("cpu", torch.float32))


def output_of(
    graph: nir.NIRGraph, x: Tensor, dt: float, describe: Callable[..., Neuron] = neuron_of
) -> Tensor:
    """The output of a graph on an input, in float32."""
    with torch.no_grad():
        network = Network(graph, dt, describe=describe, dtype=torch.float32)
        return network(x.detach().to("cpu", torch.float32))


def differing(y: Tensor, reference: Tensor) -> float:
    """The share of entries in which two outputs differ."""
    expected = reference.detach().to("cpu", torch.float32)
    scale = max(1.0, float(expected.abs().max()))
    return float(((y - expected).abs() > TOLERANCE * scale).float().mean())


def differing_readers(
    graph: nir.NIRGraph, sample: Tensor, expected: Tensor, target: str, dt: float
) -> dict[str, float]:
    """For each reader that takes the graph, the share of the output that its rounding changes.

    Readers compute the same formula in a different order. Where a potential meets the threshold,
    which quantised weights make common, that decides about a spike.

    Args:
        graph: The finished graph.
        sample: The input.
        expected: The output that is meant.
        target: For whom the graph was written.
        dt: Time step in seconds.
    """
    # Of other neurons no reader's order of operations is known.
    known = not any(type(node) in set(NEURONS) - {nir.LIF, nir.IF} for node in graph.nodes.values())
    shares = {}
    for reader in readers(target):
        arithmetic = reader.arithmetic
        if (
            not known
            or arithmetic is None
            or any(findings(reader.name, graph.nodes, graph.edges, dt))
        ):
            continue
        y = output_of(graph, sample, dt, lambda node, dt, surrogate, of=arithmetic: of(node, dt))
        shares[reader.name] = differing(y, expected)
    return shares


def silence(outputs: Iterable[tuple[str, Tensor]]) -> list[str]:
    """What to say about neurons that fired no spike, so that nothing was compared.

    Args:
        outputs: Names and outputs of neurons, several for one name if it was called often.
    """
    fired: dict[str, bool] = {}
    for name, output in outputs:
        fired[name] = fired.get(name, False) or bool(output.any())
    silent = [name for name, spikes in fired.items() if not spikes]
    if not silent:
        return []
    return [
        f"NO SPIKE on this sample from {', '.join(silent)}: the comparison proves nothing for "
        f"{'this layer' if len(silent) == 1 else 'these layers'}; use a sample that makes every "
        f"layer fire."
    ]


def through_a_file(
    graph: nir.NIRGraph,
    path: str | os.PathLike[str] | None,
    sample: Tensor,
    dt: float,
    expected: Tensor,
) -> nir.NIRGraph:
    """Write the graph, read it back and compare, before the file takes its place.

    Args:
        graph: The graph.
        path: The file; None keeps none.
        sample: The input.
        dt: Time step in seconds.
        expected: What the graph gives out.

    Returns:
        The graph as it was read back.
    """
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            return through_a_file(graph, Path(folder, "graph.nir"), sample, dt, expected)
    with whole_file(path) as temporary:
        nir.write(temporary, graph)
        again = nir.read(temporary)
        if not torch.equal(output_of(again, sample, dt), expected):
            raise RuntimeError(f"path: {path} does not read back as it was written")
    return again
