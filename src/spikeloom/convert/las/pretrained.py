"""The models of transformers within a network: their attention, and what they refuse.

transformers is imported only where a network has such a model.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from spikeloom.convert.las.storage import plan_of

__all__ = ["attend", "guard"]


def _pretrained(network: nn.Module) -> list[Any]:
    """The models of transformers in a network, itself included."""
    transformers = sys.modules.get("transformers")
    if transformers is None:
        return []
    return [part for part in network.modules() if isinstance(part, transformers.PreTrainedModel)]


def attend(network: nn.Module, *implementation: str) -> None:
    """Choose the attention of all models of transformers in a network; the spiking one if none."""
    for part in _pretrained(network):
        from spikeloom.convert.las.hugging_face import use_attention

        use_attention(part, *implementation)


def guard(network: nn.Module, exclude: list[str]) -> None:
    """Let models of transformers refuse what was not converted, and know what they are made of."""
    for part in _pretrained(network):
        from spikeloom.convert.las.hugging_face import check_call

        part.register_forward_pre_hook(check_call, with_kwargs=True)
        if part is network:
            part.config.spikeloom_las = plan_of(part, exclude)  # type: ignore[union-attr]  # transformers' own
