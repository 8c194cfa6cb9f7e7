"""What one weight layer feeds, and where the steps of its input are."""

from __future__ import annotations

from dataclasses import dataclass

from spikeloom.compress.response import Response
from spikeloom.rows import WeightLayer

__all__ = ["Site"]


@dataclass
class Site:
    """What one weight layer feeds.

    Attributes:
        name: The layer's name in the model.
        layer: The layer.
        response: How the membranes behind it respond; the identity without a neuron.
        neuron: The neuron's name, or None.
        shape: Shape of the neuron's potential for one sample.
        norms: Chains of normalisations between layer and neuron.
        time: Where the steps are in the layer's input: ``"calls"``, ``"first"`` (an axis of their
            own in front), ``"folded"`` (into the batch), or ``"once"`` (nowhere: its output is
            shown to the neuron at every step).
        batch_first: Whether samples come before steps, where both are in one input; None if there
            has been one sample only, so that it is not known.
        rows: If folded, how many rows in turn belong to one sample at one step, such as its tokens;
            0 if samples are not among the rows, but along another axis.
        steps: T of a sequence; 1 if steps are calls.
        streams: How many calls of the layer make up one step, each with a trace of its own.
    """

    name: str
    layer: WeightLayer
    response: Response
    neuron: str | None = None
    shape: tuple[int, ...] = ()
    norms: tuple[tuple[str, ...], ...] = ()
    time: str = "calls"
    batch_first: bool | None = False
    rows: int = 1
    steps: int = 1
    streams: int = 1
