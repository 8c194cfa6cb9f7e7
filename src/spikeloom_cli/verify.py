"""``spikeloom verify``."""

from __future__ import annotations

from typing import Annotated

import typer

from spikeloom_cli.data import load_sample
from spikeloom_cli.model import load_model
from spikeloom_cli.options import Json, Model, Sample, Seed, TrustPickle, Weights
from spikeloom_cli.output import show_all

__all__ = ["verify"]


def verify(
    model: Model,
    sample: Sample,
    fold: Annotated[
        bool, typer.Option("--fold", help="Fold batch norms into the weights first.")
    ] = False,
    exempt: Annotated[
        list[str] | None,
        typer.Option(
            help="A module that may multiply, may be repeated; by default the first weight layer.",
            show_default=False,
        ),
    ] = None,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Prove that a network needs no multiplication, and count its operations and energy.

    The exit status is 1 if it needs multiplications.
    """
    from spikeloom.verify import check_mfi, count_energy, fold_norms

    network = load_model(model, weights, seed, trust_pickle)
    if fold:
        network = fold_norms(network)
    batch = load_sample("sample", sample)
    proof = check_mfi(network, batch, exempt=exempt)
    show_all([proof, count_energy(network, batch)], json)
    if not proof.ok:
        raise typer.Exit(1)
