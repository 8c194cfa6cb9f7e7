"""A checkpoint that is converted file by file: its weights are never in memory all at once."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from spikeloom.convert.las.recipe import LAS
from spikeloom.convert.las.report import LASReport
from spikeloom.files import whole_file, write_text
from spikeloom.ranks import number, together
from spikeloom.stored import INDEX, Place, on_meta, places_in, store

__all__ = ["las_folder"]

RANGES = "model-las.safetensors"


@together()
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
            file, or is the target as well.
        OSError: If a file cannot be written. The target is then no converted model, and every file
            in it is whole; call this again once there is room.
        RankFailed: If another process of ``torch.distributed`` failed.
    """
    import transformers

    source, target = Path(source), Path(target)
    if target.exists() and source.samefile(target):
        raise ValueError(f"target: must be another folder than source, got {target}")
    places = places_in(source)
    config = transformers.AutoConfig.from_pretrained(source)
    built: Any = model_class or getattr(transformers, config.architectures[0])
    with on_meta():
        model = built._from_config(config, dtype=config.dtype)
    store(model, places)
    recipe = replace(recipe or LAS(), low_memory=True)
    network = recipe.apply(model.eval(), calibration)
    if number() == 0:
        _save(network, places, target)
    return network.report  # type: ignore[return-value]  # not a tensor


def _save(network: Any, places: dict[str, Place], target: Path) -> None:
    from safetensors.torch import save_file

    target.mkdir(parents=True, exist_ok=True)
    # What makes it a converted model is written last: a folder without it is not taken for one.
    (target / "config.json").unlink(missing_ok=True)
    for path in sorted({place.path for place in places.values()}):
        with whole_file(target / path.name) as temporary:
            shutil.copyfile(path, temporary)
    new = {
        name: value.contiguous()
        for name, value in network.state_dict().items()
        if name not in places and not value.is_meta
    }
    with whole_file(target / RANGES) as temporary:
        save_file(new, temporary, metadata={"format": "pt"})
    files = {name: place.path.name for name, place in places.items()} | dict.fromkeys(new, RANGES)
    size = sum(path.stat().st_size for path in target.glob("model*.safetensors"))
    index = {"metadata": {"total_size": size}, "weight_map": files}
    write_text(target / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")
    if network.can_generate():
        network.generation_config.save_pretrained(target)
    network.config.save_pretrained(target)
