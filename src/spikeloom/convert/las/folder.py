"""A checkpoint that is converted file by file: its weights are never in memory all at once."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from spikeloom.agreement import check_same_checkpoint, in_step
from spikeloom.convert.las.recipe import LAS
from spikeloom.convert.las.report import LASReport
from spikeloom.files import whole_file
from spikeloom.ranks import number
from spikeloom.stored import on_meta, store
from spikeloom.weights import Place, check_target, places_in, save_tensors, write_index

__all__ = ["las_folder"]

RANGES = "model-las.safetensors"


@in_step("source", "target", "calibration")
def las_folder(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    calibration: Any,
    recipe: LAS | None = None,
    model_class: type | None = None,
) -> LASReport:
    """Convert a checkpoint of transformers into another, within the memory of one layer.

    A layer's matrix is read from its file when the layer computes, for every batch anew, and is let
    go then. In memory are the matrix of one layer, the activations, and what the sites count: 512
    bytes a channel. The weights themselves do not change; their files are copied. With
    ``torch.distributed`` initialised, all processes call this, each with its share of the batches;
    the first one writes.

    Args:
        source: A folder that ``save_pretrained`` wrote, in one file or in several.
        target: A folder for the converted model; :func:`~spikeloom.convert.load_las` reads it.
        calibration: As for :meth:`LAS.apply`.
        recipe: The settings; None: those of ``LAS()``.
        model_class: The model's class; by default the architecture that its configuration names.

    Returns:
        The report of the conversion.

    Raises:
        TypeError: As :meth:`LAS.apply`.
        ValueError: Likewise; if the source holds no weights, or not all of the model's, lacks a
            file or has a damaged one, or is the target as well; if the target holds other weights
            than those of an earlier conversion into the same files.
        OSError: If a file cannot be written. The target is then no converted model, and every file
            in it is whole; call this again once there is room.
        RankFailed: If another process of ``torch.distributed`` failed.
    """
    import transformers

    source, target = Path(source), Path(target)
    if target.exists() and source.samefile(target):
        raise ValueError(f"target: must be another folder than source, got {target}")
    places = places_in(source)
    if number() == 0:
        _check(places, target)
    config = transformers.AutoConfig.from_pretrained(source)
    built: Any = model_class or getattr(transformers, config.architectures[0])
    with on_meta():
        model = built._from_config(config, dtype=config.dtype)
    store(model, places)
    check_same_checkpoint(places)
    recipe = replace(recipe or LAS(), low_memory=True)
    network = recipe.apply(model.eval(), calibration)
    if number() == 0:
        _save(network, places, target)
    return network.report  # type: ignore[return-value]  # not a tensor


def _check(places: dict[str, Place], target: Path) -> None:
    """Refuse to write over what is no earlier result, or beside other weights."""
    names = {place.path.name for place in places.values()}
    check_target(target, {*names, RANGES})
    config = target / "config.json"
    is_converted = not config.exists() or "spikeloom_las" in json.loads(config.read_text("utf-8"))
    if not is_converted and any((target / name).exists() for name in names):
        raise ValueError(
            f"target: {target} holds a model that is not converted, over which this would write; "
            f"give an empty folder"
        )


def _save(network: Any, places: dict[str, Place], target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    # What makes it a converted model is written last: a folder without it is not taken for one.
    (target / "config.json").unlink(missing_ok=True)
    for path in sorted({place.path for place in places.values()}):
        _copy(path, target / path.name)
    new = {
        name: value.contiguous()
        for name, value in network.state_dict().items()
        if name not in places and not value.is_meta
    }
    save_tensors(target / RANGES, new)
    files = {name: place.path.name for name, place in places.items()} | dict.fromkeys(new, RANGES)
    write_index(target, files)
    if network.can_generate():
        _save_settings(network.generation_config, target)
    _save_settings(network.config, target)


def _save_settings(settings: Any, target: Path) -> None:
    """Write what transformers writes of a configuration, but each file whole or not at all."""
    with TemporaryDirectory() as folder:
        settings.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            _copy(path, target / path.name)


def _copy(path: Path, to: Path) -> None:
    with whole_file(to) as temporary:
        shutil.copyfile(path, temporary)
