"""``spikeloom compress``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikeloom_cli.data import load_batches
from spikeloom_cli.model import load_model
from spikeloom_cli.options import Json, Model, Out, Seed, Tokens, TrustPickle, Weights
from spikeloom_cli.output import save_report, show_all, wrote

if TYPE_CHECKING:
    from torch import nn

    from spikeloom.compress import Statistics

__all__ = ["compress"]


def compress(
    model: Model,
    out: Out,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Batches to calibrate on, as for convert; the statistics are kept in the folder.",
            show_default=False,
        ),
    ] = None,
    statistics: Annotated[
        Path | None,
        typer.Option(
            help="Statistics of an earlier calibration, instead of --calibration.",
            show_default=False,
        ),
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(help="Share of the weights to remove, in [0, 1).", show_default=False),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="Remove by a pattern instead, such as 2:4.", show_default=False),
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="Round to so many bits, 2 to 8.", show_default=False)
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="osbc; or obs, magnitude (to remove) and obc, rtn (to round), for comparison."
        ),
    ] = "osbc",
    tokens: Tokens = 128,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Prune and quantise a trained spiking network without training it again.

    The folder gets the weights with masks and codes (model.safetensors), the statistics of the
    calibration (statistics.safetensors) and the reports. To read the weights, use
    spikeloom.compress.load_compressed, or --weights of any command.
    """
    removes = sparsity is not None or pattern is not None
    if not removes and bits is None:
        raise ValueError("compress: nothing to do; give --sparsity, --pattern or --bits")
    if (calibration is None) == (statistics is None):
        raise ValueError("compress: give either --calibration or --statistics")
    network = load_model(model, weights, seed, trust_pickle)
    stats = _statistics(network, model, calibration, statistics, tokens)
    reports = []
    from spikeloom.compress import prune, quantize

    if removes:
        reports.append(prune(network, stats, sparsity, method, pattern=pattern))
    if bits is not None:
        reports.append(quantize(network, stats, bits, method))
    out.mkdir(parents=True, exist_ok=True)
    _save(network, stats, out)
    for name, report in zip(("report", "report-2"), reports, strict=False):
        save_report(report, out, name)
    show_all(reports, json)
    wrote(out)


def _statistics(
    network: nn.Module, model: str, calibration: str | None, saved: Path | None, tokens: int
) -> Statistics:
    from spikeloom.compress import Statistics, calibrate

    if saved is not None:
        return Statistics.load(saved)
    assert calibration is not None
    return calibrate(network, load_batches("calibration", calibration, model, tokens))


def _save(network: nn.Module, stats: Statistics, out: Path) -> None:
    from spikeloom.weights import save_tensors

    # Layers that share a weight each have their own copy in the file.
    state: dict[str, Any] = {
        name: value.detach().cpu().clone() for name, value in network.state_dict().items()
    }
    save_tensors(out / "model.safetensors", state)
    stats.save(out / "statistics.safetensors")
