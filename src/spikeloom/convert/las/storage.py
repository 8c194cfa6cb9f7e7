"""A converted model of transformers, saved with ``save_pretrained`` and loaded again."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from spikeloom.convert.checkpoint import load_weights
from spikeloom.convert.las.attention import EAGER
from spikeloom.convert.las.calls.interception import rebuild_calls
from spikeloom.convert.las.forms import FORMED
from spikeloom.convert.las.pretrained import attend
from spikeloom.convert.las.rules import replace_layers
from spikeloom.convert.las.sites import Site

__all__ = ["load_las"]


def load_las(folder: str | os.PathLike[str], model_class: type | None = None) -> nn.Module:
    """Load a converted model that ``save_pretrained`` wrote.

    Args:
        folder: Where it was saved.
        model_class: Its class; by default the architecture that its configuration names.

    Returns:
        The converted model in eval mode; it has no report.

    Raises:
        ValueError: If the folder holds no converted model.
    """
    import transformers

    from spikeloom.convert.las.hugging_face import guard

    config = transformers.AutoConfig.from_pretrained(folder)
    plan = getattr(config, "spikeloom_las", None)
    if plan is None:
        raise ValueError(f"folder: {os.fspath(folder)} holds no model converted by LAS")
    model_class = model_class or getattr(transformers, config.architectures[0])
    network = model_class(config)
    _rebuild(network, plan)
    if config.dtype is not None:
        # Not buffers: positions of rotary embeddings need float32, as transformers knows.
        for value in network.parameters():
            value.data = value.data.to(config.dtype)
    load_weights(network, folder)
    guard(network)
    return network.eval()


def _rebuild(network: nn.Module, plan: dict[str, Any]) -> None:
    """The layers of a converted network, with ranges still to be filled."""
    from spikeloom.convert.las.hugging_face import TransformersAttention

    replace_layers(network, plan["exclude"])
    attend(network, plan["exclude"])
    for name in plan["sites"]:
        parent, _, leaf = name.rpartition(".las.")
        if leaf == "q":
            network.get_submodule(parent).add_module("las", TransformersAttention())
    for name in plan["eager"]:
        setattr(network.get_submodule(name), EAGER, True)
    rebuild_calls(network, plan["calls"], plan["exclude"])
    for name, first in plan["shared"].items():
        network.get_submodule(name).share(network.get_submodule(first))  # type: ignore[operator]  # a Linear
    for name, site in plan["sites"].items():
        module = network.get_submodule(name)
        assert isinstance(module, Site)
        # Any increasing ranges; the saved ones follow with the weights.
        ranges = [torch.full(shape, 2.0**i) for i, shape in enumerate(site["shapes"])]
        module.install(site["steps"], ranges, site["rounding"])
        module.name, module.users = name, site["users"]
    for name, settings in plan["tables"].items():
        network.get_submodule(name).install(*settings)  # type: ignore[operator]  # a table's layer
    for module in network.modules():
        if isinstance(module, FORMED):
            module.observing = False
