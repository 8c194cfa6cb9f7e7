"""``spikeloom export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeloom_cli.data import load_sample
from spikeloom_cli.model import load_model
from spikeloom_cli.options import Json, Model, Sample, Seed, TrustPickle, Weights
from spikeloom_cli.output import show, wrote

__all__ = ["export"]


def export(
    model: Model,
    sample: Sample,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The NIR file to write.", show_default=False)
    ],
    target: Annotated[
        str,
        typer.Option(help="Who shall read it, a key of spikeloom.export.PROFILES."),
    ] = "portable",
    on_inexact: Annotated[
        str,
        typer.Option(
            help="What to do with a module that NIR has no exact node for: raise, subgraph, "
            "approximate or extension."
        ),
    ] = "raise",
    dt: Annotated[
        float | None,
        typer.Option(help="Seconds of a time step; 1e-4 by default.", show_default=False),
    ] = None,
    dense_token_mixing: Annotated[
        bool,
        typer.Option(
            "--dense-token-mixing", help="Write layers behind moved axes as large matrices."
        ),
    ] = False,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write a network as a NIR file, after the file has fired the same spikes on the sample.

    The exit status is 1, and no file is written, if NIR cannot express the network.
    """
    from spikeloom.export import NotExpressible, to_nir

    network = load_model(model, weights, seed, trust_pickle)
    batch = load_sample("sample", sample)
    try:
        _, report = to_nir(
            network, batch, dt, on_inexact, target, out, dense_token_mixing=dense_token_mixing
        )
    except NotExpressible as refusal:
        typer.echo(f"spikeloom: {refusal}", err=True)
        raise typer.Exit(1) from None
    show(report, json)
    wrote(out)
