"""``spikeloom bench``."""

from __future__ import annotations

from typing import Annotated

import typer

from spikeloom_cli.options import Json
from spikeloom_cli.output import show

__all__ = ["bench"]


def bench(
    neuron: Annotated[str, typer.Option(help="A neuron of spikeloom.neurons.")] = "LIF",
    steps: Annotated[int, typer.Option(help="Time steps of a call.", min=1)] = 16,
    neurons: Annotated[int, typer.Option(help="Neurons of the layer.", min=1)] = 100_000,
    rounds: Annotated[int, typer.Option(help="Rounds; the best one counts.", min=1)] = 15,
    device: Annotated[str, typer.Option(help="Where to run, such as cpu or cuda.")] = "cpu",
    json: Json = False,
) -> None:
    """Time a layer of neurons, forward and backward, in every implementation of this machine."""
    from spikeloom.timing import time_layer
    from spikeloom_cli.source import described

    show(time_layer(described(neuron, []), steps, neurons, rounds, device), json)
