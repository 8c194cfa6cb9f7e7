"""The data that a command calibrates on or runs a model on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spikeloom_cli.objects import is_import_path, made_by

__all__ = ["load_batches", "load_sample"]

READABLE = ".pt, .npy and .safetensors files of tensors, and .txt files of texts"


def load_batches(argument: str, text: str, model: str, tokens: int) -> Any:
    """Batches for calibration.

    Args:
        argument: What errors call them.
        text: A file, or ``package.module:name``.
        model: Whose tokenizer reads texts: a Hugging Face folder.
        tokens: At most so many tokens of each text.
    """
    if Path(text).suffix == ".txt":
        return _tokenized(argument, Path(text), model, tokens)
    return load_sample(argument, text)


def load_sample(argument: str, text: str) -> Any:
    """A batch, as it is stored or as a function makes it.

    Args:
        argument: What errors call it.
        text: A file, or ``package.module:name``.
    """
    if is_import_path(text):
        return made_by(argument, text)
    path = Path(text)
    readers = {".pt": _from_torch, ".npy": _from_numpy, ".safetensors": _from_safetensors}
    if path.suffix not in readers:
        raise ValueError(
            f"{argument}: cannot read {text!r}; there are {READABLE}, and package.module:name"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: there is no file {text}")
    return readers[path.suffix](path)


def _from_torch(path: Path) -> Any:
    import torch

    return torch.load(path, weights_only=True)


def _from_numpy(path: Path) -> Any:
    import numpy
    import torch

    return torch.from_numpy(numpy.load(path))


def _from_safetensors(path: Path) -> Any:
    """A single tensor as it is; several ones are arguments by name."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    return next(iter(tensors.values())) if len(tensors) == 1 else tensors


def _tokenized(argument: str, path: Path, model: str, tokens: int) -> list[dict[str, Any]]:
    """A batch for each line of a text file that is not empty."""
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: there is no file {path}")
    if not Path(model).is_dir():
        raise ValueError(
            f"{argument}: texts need the tokenizer of a Hugging Face folder, and MODEL is {model!r}"
        )
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{argument}: {path} holds no text")
    options = {"return_tensors": "pt", "truncation": True, "max_length": tokens}
    return [dict(tokenizer(line, **options)) for line in lines]
