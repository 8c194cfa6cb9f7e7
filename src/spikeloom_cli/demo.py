"""``spikeloom demo``: the library in half a minute, on a problem small enough to read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spikeloom_cli.options import Seed
from spikeloom_cli.output import wrote

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["demo"]

STEPS, INPUTS, HIDDEN = 20, 8, 24


def demo(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder for the picture and the NIR file."),
    ] = Path("spikeloom-demo"),
    epochs: Annotated[int, typer.Option(help="Epochs of training.", min=1)] = 60,
    seed: Seed = 0,
) -> None:
    """Train a small spiking network, draw its spikes, and carry it away as a NIR file.

    Two classes of inputs are told apart: currents that rise along the inputs, and currents that
    fall.
    """
    import torch

    torch.manual_seed(seed)
    network = _network()
    _train(network, epochs)
    x, labels = _samples(256)
    right = network(x).sum(0).argmax(1) == labels
    typer.echo(f"{right.float().mean():.1%} of 256 new samples are classified right")
    out.mkdir(parents=True, exist_ok=True)
    _exchange(network, x[:, :32], out / "network.nir")
    _draw(network, x, out / "spikes.png")


def _network() -> nn.Sequential:
    from torch import nn

    from spikeloom import SpikingLayer, neurons

    return nn.Sequential(
        nn.Linear(INPUTS, HIDDEN),
        SpikingLayer(neurons.LIF(tau=2.0)),
        nn.Linear(HIDDEN, 2),
        SpikingLayer(neurons.LIF(tau=2.0)),
    )


def _samples(count: int) -> tuple[Tensor, Tensor]:
    """Noisy currents ``[T, count, INPUTS]`` and their classes."""
    import torch

    labels = torch.randint(2, (count,))
    slope = torch.linspace(-1, 1, INPUTS) * (2 * labels[:, None] - 1)
    return 1 + slope + torch.randn(STEPS, count, INPUTS), labels


def _train(network: nn.Module, epochs: int) -> None:
    import torch
    from rich.progress import track
    from torch import nn

    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in track(range(epochs), "training", transient=True):
        x, labels = _samples(64)
        loss = nn.functional.cross_entropy(network(x).mean(0), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _exchange(network: nn.Module, sample: Tensor, path: Path) -> None:
    try:
        from spikeloom.export import to_nir
    except ImportError as error:
        typer.echo(f"no NIR file: {error}", err=True)
        return
    _, report = to_nir(network, sample, path=path)
    typer.echo(f"{report.mismatch:.2%} of its spikes differ when the NIR file is read back")
    wrote(path)


def _draw(network: nn.Sequential, x: Tensor, path: Path) -> None:
    import torch

    from spikeloom.pictures import raster

    with torch.no_grad():
        hidden = network[:2](x)
        output = network[2:](hidden)
    try:
        raster({"hidden": hidden, "output": output}, path, title="Spikes of one sample")
    except ImportError as error:
        typer.echo(f"no picture: {error}", err=True)
        return
    wrote(path)
