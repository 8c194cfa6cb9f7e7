"""A graph in the making: nodes that may still be folded into their neighbours."""

from __future__ import annotations

from dataclasses import dataclass, field

import nir
import numpy as np

from spikeloom.export.forms.layers import Bias, Norm, Transparent
from spikeloom.export.forms.spiking import plain_threshold, strict_threshold
from spikeloom.export.refuse import Refused

__all__ = ["DraftGraph"]

Weighted = (nir.Affine, nir.Linear, nir.Conv1d, nir.Conv2d)


@dataclass
class DraftGraph:
    """Nodes and edges, not yet a NIRGraph.

    Attributes:
        nodes: NIR nodes, and normalisations, biases and pass-throughs that must still vanish.
        edges: ``(source, target)`` pairs in a fixed order.
    """

    nodes: dict[str, nir.NIRNode | Bias | Norm | Transparent] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)

    def sources(self, name: str) -> list[str]:
        """The nodes that feed a node."""
        return [source for source, target in self.edges if target == name]

    def targets(self, name: str) -> list[str]:
        """The nodes that a node feeds."""
        return [target for source, target in self.edges if source == name]

    def bypass(self, name: str) -> None:
        """Take a node out and connect its sources with its targets.

        Raises:
            Refused: If a source would then feed a target twice.
        """
        new = [(s, t) for s in self.sources(name) for t in self.targets(name)]
        if set(new) & set(self.edges):
            raise Refused("repeats a connection that is there already", "double the weights")
        place = min(i for i, edge in enumerate(self.edges) if name in edge)
        kept = [edge for edge in self.edges if name not in edge]
        self.edges = kept[:place] + new + kept[place:]
        del self.nodes[name]

    def fold_norm(self, name: str) -> None:
        """Put a normalisation into the weights before it.

        Raises:
            Refused: If something else stands before it, or also uses those weights.
        """
        norm = self.nodes[name]
        assert isinstance(norm, Norm)
        for source in self._own_weights(name, "normalises"):
            self.nodes[source] = _scaled(self.nodes[source], norm.scale, norm.shift)
        self.bypass(name)

    def fold_bias(self, name: str) -> bool:
        """Put a bias into the weights before it.

        Returns:
            Whether that was possible: nothing else uses those weights.
        """
        bias = self.nodes[name]
        assert isinstance(bias, Bias)
        sources = self.sources(name)
        if len(sources) != 1 or not self._feeds_alone(sources[0], name):
            return False
        (source,) = sources
        self.nodes[source] = _scaled(self.nodes[source], np.ones_like(bias.shift), bias.shift)
        self.bypass(name)
        return True

    def unify_threshold(self, name: str, at_threshold: bool, for_both: bool) -> None:
        """Give a layer one threshold by scaling the weights before it, row by row.

        A hard reset to 0 does not change when weights and threshold are scaled together.

        Args:
            name: A LIF or IF node.
            at_threshold: Whether it fires at the threshold.
            for_both: Whether a reader does.

        Raises:
            Refused: If the weights before it cannot take the scale.
        """
        node = self.nodes[name]
        assert isinstance(node, (nir.LIF, nir.IF))
        threshold = plain_threshold(node.v_threshold, at_threshold, for_both).astype(np.float64)
        rows = threshold.reshape(len(threshold), -1)
        if not (rows == rows[:, :1]).all():
            raise Refused(
                "its thresholds differ within a channel, weights cannot take them up",
                'use one threshold for each channel, or target="nir"',
            )
        if (rows <= 0).any():
            raise Refused("some of its thresholds are not positive", "use positive thresholds")
        for source in self._own_weights(name, "has a threshold for each neuron and"):
            scale = 1.0 / rows[:, 0]
            self.nodes[source] = _scaled(self.nodes[source], scale, np.zeros_like(scale))
        node.v_threshold = strict_threshold(np.ones_like(threshold), at_threshold, for_both)

    def fold_height(self, name: str) -> bool:
        """Put a Scale with one value into the weights after it.

        Args:
            name: The Scale.

        Returns:
            Whether that was possible: only weights follow, and nothing else feeds them.
        """
        node = self.nodes[name]
        assert isinstance(node, nir.Scale)
        weights = self._weights_after(name)
        if weights is None:
            return False
        for weighted in weights:
            weighted.weight = weighted.weight * node.scale.flat[0]
        self.bypass(name)
        return True

    def _weights_after(self, name: str) -> list[nir.NIRNode] | None:
        """The weights that a signal reaches through pools and flattenings; None if it goes on."""
        found: list[nir.NIRNode] = []
        for target in self.targets(name):
            node = self.nodes[target]
            further = [node] if isinstance(node, Weighted) else None
            if isinstance(node, (nir.Flatten, nir.AvgPool2d, nir.SumPool2d)):
                further = self._weights_after(target)
            if further is None or self.sources(target) != [name]:
                return None
            found += further
        return found

    def _feeds_alone(self, source: str, name: str) -> bool:
        """Whether a node is of weights whose results nothing else uses."""
        return isinstance(self.nodes[source], Weighted) and self.targets(source) == [name]

    def _own_weights(self, name: str, action: str) -> list[str]:
        sources = self.sources(name)
        for source in sources:
            if not self._feeds_alone(source, name):
                raise Refused(
                    f"{action} a signal that does not come from weights of its own",
                    "put a Linear or Conv layer right before it",
                )
        if len(sources) != 1 and action == "normalises":
            raise Refused("normalises a sum", "normalise each of its terms")
        return sources


def _scaled(node: nir.NIRNode, scale: np.ndarray, shift: np.ndarray) -> nir.NIRNode:
    """The same weights, each row times a scale, plus a shift."""
    weight = node.weight.astype(np.float64)
    rows = scale.reshape(-1, *[1] * (weight.ndim - 1))
    bias = getattr(node, "bias", None)
    new_bias = shift if bias is None else bias * scale + shift
    new_weight = (weight * rows).astype(np.float32)
    if isinstance(node, nir.Linear) and not shift.any():
        return nir.Linear(weight=new_weight)
    if isinstance(node, (nir.Affine, nir.Linear)):
        return nir.Affine(weight=new_weight, bias=new_bias.astype(np.float32))
    node.weight, node.bias = new_weight, new_bias.astype(np.float32)
    return node
