"""What calibration saw: a Hessian for each layer, kept in memory or in a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikeloom.compress.blocks import Block
from spikeloom.compress.coverage import by_reason
from spikeloom.report import Report
from spikeloom.weights import open_tensors, save_tensors

__all__ = ["FORMAT", "LayerStatistics", "Statistics", "fingerprint"]

# What a file's metadata say.
FORMAT = "spikeloom.compress.Statistics 1"


@dataclass(frozen=True)
class Facts:
    """What describes a layer's statistics in words and numbers.

    Attributes:
        neuron: Name of the neuron behind the layer, or None.
        decays: The decays of that neuron, rounded, for reports.
        steps: T.
        samples: How many samples (times output positions) the Hessians average over.
        fingerprint: Of the weight that was calibrated.
    """

    neuron: str | None
    decays: str
    steps: int
    samples: float
    fingerprint: str


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """The statistics of one layer.

    Attributes:
        facts: What they describe.
        spiking: Rows and Hessians of the filtered inputs; rows whose neurons decay alike share one.
        plain: Rows and Hessians of the inputs as they are, or None if they were not asked for.
        row_scale: What normalisations behind the layer multiply each row with, or None.
    """

    facts: Facts
    spiking: tuple[Block, ...]
    plain: tuple[Block, ...] | None
    row_scale: Tensor | None


class Statistics(Mapping[str, LayerStatistics]):
    """Statistics of a model's layers by module name, so that they apply to a copy as well.

    Args:
        layers: Module name -> statistics.
        left_out: Name of a weight that is not among them -> why.

    Attributes:
        left_out: As above.

    Example:
        >>> import torch, tempfile
        >>> from spikeloom import SpikingLayer, compress, neurons
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), SpikingLayer(neurons.LIF())).eval()
        >>> stats = compress.calibrate(net, [torch.ones(5, 4, 2)])
        >>> print(stats)
        layer  inputs  rows  neuron  decay  steps  samples
        -----  ------  ----  ------  -----  -----  -------
        0           2     3  1       0.5        5        4
        >>> path = tempfile.mkdtemp() + "/stats.safetensors"
        >>> stats.save(path)
        >>> loaded = compress.Statistics.load(path)
        >>> torch.equal(loaded["0"].spiking[0].hessian, stats["0"].spiking[0].hessian)
        True
    """

    def __init__(
        self, layers: Mapping[str, LayerStatistics], left_out: Mapping[str, str] | None = None
    ) -> None:
        self._layers = dict(layers)
        self.left_out = dict(left_out or {})

    def __getitem__(self, name: str) -> LayerStatistics:
        return self._layers[name]

    def __iter__(self) -> Any:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a safetensors file, whole or not at all.

        Args:
            path: Where to write; an existing file is replaced.

        Raises:
            OSError: If it cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        facts = {}
        for name, layer in self.items():
            facts[name] = asdict(layer.facts)
            for kind, blocks in (("spiking", layer.spiking), ("plain", layer.plain or ())):
                for i, block in enumerate(blocks):
                    tensors[f"{name}/{kind}/{i}/rows"] = block.rows
                    tensors[f"{name}/{kind}/{i}/hessian"] = block.hessian
            if layer.row_scale is not None:
                tensors[f"{name}/row_scale"] = layer.row_scale
        # One tensor may serve as both Hessians; a file holds each name's own.
        tensors = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
        metadata = {"facts": json.dumps(facts), "left_out": json.dumps(self.left_out)}
        save_tensors(path, tensors, {"format": FORMAT, **metadata})

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Statistics:
        """Read what :meth:`save` wrote.

        Args:
            path: The file.
            device: Where the tensors shall be.

        Returns:
            The statistics.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file holds something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"path: there is no file {path}")
        with open_tensors(path, "path", str(device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"path: {path} was not written by Statistics.save")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

        def blocks(name: str, kind: str) -> tuple[Block, ...]:
            count = sum(key.startswith(f"{name}/{kind}/") for key in tensors) // 2
            keys = [f"{name}/{kind}/{i}" for i in range(count)]
            return tuple(Block(tensors[f"{k}/rows"], tensors[f"{k}/hessian"]) for k in keys)

        return cls(
            {
                name: LayerStatistics(
                    Facts(**facts),
                    blocks(name, "spiking"),
                    blocks(name, "plain") or None,
                    tensors.get(f"{name}/row_scale"),
                )
                for name, facts in json.loads(metadata["facts"]).items()
            },
            json.loads(metadata.get("left_out", "{}")),
        )

    def report(self) -> Report:
        """A row for each layer, and a note for each reason why weights are not among them."""
        columns = ("layer", "inputs", "rows", "neuron", "decay", "steps", "samples")
        report = Report("Calibration statistics", columns)
        for name, layer in self.items():
            width = len(layer.spiking[0].hessian)
            rows = sum(len(block.rows) for block in layer.spiking)
            facts = layer.facts
            report.add(
                name, width, rows, facts.neuron, facts.decays, facts.steps, round(facts.samples)
            )
        for reason, names in by_reason(self.left_out).items():
            report.notes.append(f"Left out ({reason}): {', '.join(names)}")
        return report

    def __str__(self) -> str:
        report = self.report()
        return str(report).removeprefix(f"{report.title}\n")


def fingerprint(weight: Tensor) -> str:
    """A hash of a weight, which tells whether it is the one that was calibrated."""
    raw = weight.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(raw.numpy().data).hexdigest()[:16]
