"""``spikeloom compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spikeloom_cli.data import load_sample
from spikeloom_cli.model import load_model
from spikeloom_cli.options import Json, Sample, Seed, TrustPickle
from spikeloom_cli.output import show

if TYPE_CHECKING:
    from torch import nn

__all__ = ["compare"]

Network = typer.Argument(
    help="A NIR file, or a MODEL as for export: a folder, or package.module:name.",
    show_default=False,
)


def compare(
    a: Annotated[str, Network],
    b: Annotated[str, Network],
    sample: Sample,
    trust_pickle: TrustPickle = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Run two networks on one input and compare them spike by spike.

    The exit status is 1 if their outputs differ.
    """
    from spikeloom.verify import compare as compared

    batch = load_sample("sample", sample)
    first, second = (_network(text, seed, trust_pickle) for text in (a, b))
    report = compared(first, second, batch)
    show(report, json)
    if not report.ok:
        raise typer.Exit(1)


def _network(text: str, seed: int, trust_pickle: bool) -> nn.Module:
    if not Path(text).is_file():
        return load_model(text, None, seed, trust_pickle)
    from spikeloom.export import from_nir, read

    return from_nir(read(text))
