"""``spikeloom convert``."""

from __future__ import annotations

import inspect
import shutil
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikeloom_cli.data import load_batches
from spikeloom_cli.model import load_model
from spikeloom_cli.options import Json, Model, Out, Seed, Tokens, Weights
from spikeloom_cli.output import is_watched, save_report, show, wrote
from spikeloom_cli.settings import called_with, settings_of

if TYPE_CHECKING:
    from torch import nn

    from spikeloom.report import Report

__all__ = ["convert"]

# The files that a tokenizer consists of, whatever its kind.
TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model")


class Method(StrEnum):
    """A conversion."""

    las = "las"
    signgd = "signgd"
    spikelm = "spikelm"


def convert(
    model: Model,
    out: Out,
    method: Annotated[
        Method,
        typer.Option(
            help="las: transformers, by few-spike neurons. signgd: any trained network, by sign "
            "gradient descent. spikelm: ternary spikes in a language model, which is then trained."
        ),
    ] = Method.las,
    steps: Annotated[
        int | None,
        typer.Option(help="Time steps; by default the method's own.", show_default=False),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Batches to calibrate on: texts as .txt, one a line, for a model with a "
            "tokenizer; a tensor as .pt, .npy or .safetensors; or package.module:name.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other argument of the method, such as ranges=6; may be repeated.",
            show_default=False,
        ),
    ] = None,
    tokens: Tokens = 128,
    weights: Weights = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Convert a trained network to a spiking one, and write it to a folder.

    A Hugging Face model is written as save_pretrained writes it; any other network as network.pt,
    which torch.load reads. The report is written beside it.
    """
    recipe = _recipe(method, steps, settings or [])
    if calibration is None and method is not Method.spikelm:
        raise ValueError(f"calibration: {method} needs batches; give --calibration")
    batches = None
    if calibration is not None:
        batches = load_batches("calibration", calibration, model, tokens)
    report = _converted(method, recipe, model, batches, out, weights, seed)
    save_report(report, out)
    show(report, json)
    wrote(out)


def _recipe(method: Method, steps: int | None, texts: list[str]) -> Any:
    """The recipe with the arguments that were given."""
    from spikeloom import convert as recipes

    recipe = {
        Method.las: recipes.LAS,
        Method.signgd: recipes.SignGD,
        Method.spikelm: recipes.SpikeLM,
    }[method]
    settings = settings_of("set", texts)
    if steps is not None:
        settings["steps"] = steps
    if "progress" in inspect.signature(recipe).parameters:
        settings.setdefault("progress", is_watched())
    return called_with(recipe, settings)


def _converted(
    method: Method,
    recipe: Any,
    model: str,
    batches: Any,
    out: Path,
    weights: Path | None,
    seed: int,
) -> Report:
    """Convert, and write the network; the report."""
    is_folder = Path(model).is_dir()
    if method is Method.las and is_folder and weights is None:
        # File by file: the weights are never in memory all at once.
        from spikeloom.convert import las_folder

        report: Report = las_folder(model, out, batches, recipe)
    else:
        network = recipe.apply(load_model(model, weights, seed), batches)
        out.mkdir(parents=True, exist_ok=True)
        _save(network, out)
        report = network.report
    if is_folder:
        for pattern in TOKENIZER:
            for path in Path(model).glob(pattern):
                shutil.copy(path, out)
    return report


def _save(network: nn.Module, out: Path) -> None:
    if callable(save := getattr(network, "save_pretrained", None)):
        save(out)
        return
    import torch

    from spikeloom.files import whole_file

    with whole_file(out / "network.pt") as temporary:
        torch.save(network, temporary)
