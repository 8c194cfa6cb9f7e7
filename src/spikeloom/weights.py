"""Files of weights: a checkpoint in one file of safetensors, or in several and their index."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikeloom.files import whole_file, write_text

__all__ = [
    "INDEX",
    "Place",
    "check_target",
    "open_tensors",
    "places_in",
    "save_tensors",
    "write_index",
]

WHOLE = "model.safetensors"
INDEX = f"{WHOLE}.index.json"
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


class Place(NamedTuple):
    """Where a tensor is stored.

    Attributes:
        path: A file of safetensors.
        key: Its name there.
        shape: Its shape.
    """

    path: Path
    key: str
    shape: tuple[int, ...]

    def read(self, argument: str = "source") -> Tensor:
        """The tensor; its memory is that of the file, and is let go with it.

        Args:
            argument: What errors call the checkpoint.

        Raises:
            ValueError: If the file is damaged.
        """
        with open_tensors(self.path, argument) as file:
            value: Tensor = file.get_tensor(self.key)
        return value

    def check_shape(self, shape: torch.Size, argument: str = "source") -> None:
        """Refuse a tensor that is not as the model's.

        Args:
            shape: Of the model's own tensor.
            argument: What errors call the checkpoint.

        Raises:
            ValueError: If the shapes differ.
        """
        if self.shape != tuple(shape):
            raise ValueError(
                f"{argument}: {self.path} holds {self.key} of shape {self.shape}, and that of the "
                f"model has {tuple(shape)}; give the checkpoint of this model"
            )


@contextmanager
def open_tensors(path: str | os.PathLike[str], argument: str, device: str = "cpu") -> Iterator[Any]:
    """A file of safetensors that is open to read.

    Args:
        path: The file.
        argument: What errors call it.
        device: Where its tensors shall be.

    Yields:
        What ``safetensors.safe_open`` gives.

    Raises:
        ValueError: If it is damaged, or lacks a tensor that is read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt", device=device) as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{argument}: {path} is no whole safetensors file: {error}; copy or make it again"
        ) from error


def save_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a file of safetensors, whole or not at all.

    Args:
        path: Where the file shall be, as for :func:`~spikeloom.files.whole_file`.
        tensors: What it shall hold.
        metadata: What it shall say of them.

    Raises:
        OSError: If it cannot be written, with the number that the system gives.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with whole_file(path) as temporary:
        try:
            save_file(dict(tensors), str(temporary), {"format": "pt", **(metadata or {})})
        except SafetensorError as error:
            # The system's error is in its text only.
            code = re.search(r"os error (\d+)", str(error))
            if code is None:
                raise OSError(f"{error}: {os.fspath(path)!r}") from error
            number = int(code[1])
            raise OSError(number, os.strerror(number), os.fspath(path)) from error


def write_index(folder: Path, files: Mapping[str, str]) -> None:
    """Write which file of a checkpoint holds each tensor.

    Args:
        folder: The checkpoint; the files are there.
        files: The file's name for each tensor.
    """
    size = sum((folder / name).stat().st_size for name in set(files.values()))
    index = {"metadata": {"total_size": size}, "weight_map": dict(files)}
    write_text(folder / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")


def check_target(folder: Path, names: Collection[str]) -> None:
    """Refuse a folder in which other weights would lie beside those that are written.

    Args:
        folder: Where a checkpoint shall be; it need not exist.
        names: The files that are written.

    Raises:
        ValueError: If it holds other files of weights.
    """
    if not folder.is_dir():
        return
    # A hidden one is the rest of a process that was killed while it wrote; none is ever read.
    others = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix in SUFFIXES and path.name not in names and not path.name.startswith(".")
    )
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise ValueError(
            f"target: {folder} holds {', '.join(others[:3])}{more}, which would lie beside the new "
            f"weights but are not among them; remove what is not needed, or give an empty folder"
        )


def places_in(folder: str | os.PathLike[str], argument: str = "source") -> dict[str, Place]:
    """The tensors of a checkpoint of transformers: those that its index names, if it has one.

    Args:
        folder: Holds ``model.safetensors``, or several files and their index.
        argument: What errors call it.

    Raises:
        ValueError: If it holds neither, a file is missing or damaged, or the index does not fit
            the files.
    """
    folder = Path(folder)
    index, whole = folder / INDEX, folder / WHOLE
    if not index.exists():
        if not whole.exists():
            raise ValueError(f"{argument}: {folder} holds neither {WHOLE} nor {INDEX}")
        return _places(whole, argument)
    files = _files_of(index, argument)
    if whole.exists() and WHOLE not in files.values():
        raise ValueError(
            f"{argument}: {folder} holds {WHOLE} and {INDEX}, which does not name it; remove the "
            f"older of the two"
        )
    places: dict[str, Place] = {}
    for name in sorted(set(files.values())):
        found = _places(folder / name, argument)
        _check_index(folder, name, found, files, argument)
        places.update({key: place for key, place in found.items() if key in files})
    return places


def _places(path: Path, argument: str) -> dict[str, Place]:
    if not path.is_file():
        raise ValueError(
            f"{argument}: {path} is missing, which {INDEX} names; copy the whole checkpoint again"
        )
    with open_tensors(path, argument) as file:
        return {
            key: Place(path, key, tuple(file.get_slice(key).get_shape()))
            for key in file.keys()  # noqa: SIM118 -- no mapping
        }


def _files_of(index: Path, argument: str) -> dict[str, str]:
    """The file of each tensor, as an index says."""
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(name, str) for name in files.values()):
            raise TypeError("not every tensor has the name of a file")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{argument}: {index} is no index of weights ({error!r}); copy the whole checkpoint "
            f"again"
        ) from error
    return dict(files)


def _check_index(
    folder: Path, name: str, found: Collection[str], files: Mapping[str, str], argument: str
) -> None:
    """Refuse a file that is not the one its index was written with."""
    for key, named in files.items():
        if named == name and key not in found:
            raise ValueError(
                f"{argument}: {folder / name} holds no {key}, though {INDEX} says so; copy the "
                f"whole checkpoint again"
            )
        if named != name and key in found:
            raise ValueError(
                f"{argument}: {folder / name} holds {key}, which {INDEX} names in {named}; so they "
                f"are of two checkpoints: write the one that is meant again, into an empty folder"
            )
