"""The models of transformers within a network: their attention, and what they refuse.

transformers is imported only where a network has such a model.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import Any

from torch import nn

from spikeloom.convert.las.attention import ATTENTION, OBSERVING
from spikeloom.convert.las.plan import plan_of
from spikeloom.convert.las.rules import is_under

__all__ = ["attend", "guard", "keep_attention"]


def _pretrained(network: nn.Module, exclude: Sequence[str]) -> list[Any]:
    """The models of transformers in a network, itself included, but for excluded ones."""
    transformers = sys.modules.get("transformers")
    if transformers is None:
        return []
    kept = [name for name in exclude if name]
    return [
        part
        for name, part in network.named_modules()
        if isinstance(part, transformers.PreTrainedModel) and not is_under(name, kept)
    ]


def attend(network: nn.Module, exclude: Sequence[str], implementation: str = ATTENTION) -> None:
    """Choose the attention of all models of transformers in a network, where not excluded."""
    parts = _pretrained(network, exclude)
    for part in parts:
        # Importing it registers it with transformers.
        from spikeloom.convert.las import hugging_face  # noqa: F401

        part.config._attn_implementation = implementation
    if parts:
        keep_attention(network, exclude)


def keep_attention(network: nn.Module, exclude: Sequence[str]) -> None:
    """Let the excluded parts of a model of transformers attend in float."""
    whole = _pretrained(network, ())
    for name, module in network.named_modules():
        config: Any = getattr(module, "config", None)
        if module in whole or not is_under(name, [other for other in exclude if other]):
            continue
        if getattr(config, "_attn_implementation", None) in (ATTENTION, OBSERVING):
            # Modules share one configuration, and ask it.
            module.config = copy.deepcopy(config)
            module.config._attn_implementation = "eager"


def guard(network: nn.Module, exclude: list[str]) -> None:
    """Let models of transformers refuse what was not converted, and know what they are made of."""
    for part in _pretrained(network, exclude):
        from spikeloom.convert.las import hugging_face

        hugging_face.guard(part)
        if part is network:
            part.config.spikeloom_las = plan_of(part, exclude)  # type: ignore[union-attr]  # transformers' own
