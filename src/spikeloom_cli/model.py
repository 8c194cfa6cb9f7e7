"""The model that a command works on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeloom_cli.objects import is_import_path, made_by

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load_model", "load_state"]


def load_model(
    text: str, weights: Path | None = None, seed: int = 0, trust_pickle: bool = False
) -> nn.Module:
    """The model that a text names, in evaluation mode.

    Args:
        text: A Hugging Face folder, or ``package.module:name``.
        weights: A state_dict to load into it.
        seed: Set before the model is made.
        trust_pickle: Whether a folder may hold a network that was saved whole.
    """
    import torch
    from torch import nn

    torch.manual_seed(seed)
    folder = Path(text)
    if (folder / "network.pt").is_file():
        model = _unpickled(folder / "network.pt", trust_pickle)
    elif folder.is_dir():
        model = _pretrained(folder)
    elif is_import_path(text):
        model = made_by("MODEL", text)
    else:
        raise ValueError(f"MODEL: {text!r} is neither a folder nor of the form package.module:name")
    if not isinstance(model, nn.Module):
        raise TypeError(f"MODEL: {text} must be a torch.nn.Module, got {type(model).__name__}")
    if weights is not None:
        from spikeloom.compress import load_compressed

        load_compressed(model, load_state(weights))
    return model.eval()


def _unpickled(path: Path, is_trusted: bool) -> Any:
    """A network that convert saved whole."""
    if not is_trusted:
        raise ValueError(
            f"MODEL: {path} is a pickle, and reading it can run any code; if it is your own, give "
            f"--trust-pickle"
        )
    import torch

    return torch.load(path, weights_only=False)


def _pretrained(folder: Path) -> Any:
    """A model of a Hugging Face folder: plain, or converted by LAS or SpikeLM."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"MODEL: {folder} holds no config.json, so it is no Hugging Face model")
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            'MODEL: a Hugging Face folder needs transformers: pip install "spikeloom[transformers]"'
        ) from error
    from spikeloom import convert

    config = transformers.AutoConfig.from_pretrained(folder)
    if hasattr(config, "spikeloom_las"):
        return convert.load_las(folder)
    if hasattr(config, "spikelm"):
        return convert.SpikeLM.from_pretrained(folder)
    (name,) = config.architectures
    return getattr(transformers, name).from_pretrained(folder)


def load_state(path: Path) -> dict[str, Any]:
    """A state_dict from a file.

    Args:
        path: A ``.safetensors`` file, or one that torch.save wrote.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights: there is no file {path}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    state = torch.load(path, weights_only=True)
    if not isinstance(state, dict):
        raise TypeError(f"weights: {path} must hold a state_dict, got {type(state).__name__}")
    return state
