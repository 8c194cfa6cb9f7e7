"""What a converted model of transformers is made of beside torch's layers, and how it is called.

Importing this registers spiking attention with transformers. A pickled network names
:class:`TransformersAttention`, so that reading it registers it as well.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, pytorch_utils
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface

from spikeloom.convert.las.attention import ATTENTION, OBSERVING, Attention
from spikeloom.convert.las.layers import Linear, WeightLayer, owned
from spikeloom.convert.las.sites import Site

__all__ = ["Conv1D", "TransformersAttention", "guard"]

# Their positions begin behind the padding's.
OFFSET_POSITIONS = ("camembert", "roberta", "xlm-roberta")


class Conv1D(WeightLayer, pytorch_utils.Conv1D):
    """GPT-2's ``Conv1D`` on spikes, a linear layer with weights ``[in, out]``.

    Args:
        original: The layer; its weights are shared, not copied.
    """

    def __init__(self, original: Any) -> None:
        nn.Module.__init__(self)
        self.nx, self.nf = original.weight.shape
        self.weight, self.bias = owned(original.weight), owned(original.bias)
        self.site = Site()

    @property
    def matrix(self) -> Tensor:
        """The weights as ``[out, in]``."""
        return self.weight.T

    __repr__ = nn.Module.__repr__

    def extra_repr(self) -> str:
        """Its sizes."""
        return f"nf={self.nf}, nx={self.nx}"


class TransformersAttention(Attention):
    """The sites and tables of one attention of transformers."""


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """What transformers calls in place of its own attention function."""
    if "las" not in module._modules:
        raise ValueError(
            f"model: calibration did not reach this {type(module).__name__}, whose values are "
            f"not known; calibrate on batches that use it, or name it in exclude"
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    context, probabilities = module.las(query, key, value, attention_mask, scaling)  # type: ignore[operator]  # a module
    return context.transpose(1, 2).contiguous(), probabilities


def _observing_attention(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """The same during calibration, where an attention gets its sites when it is first called."""
    if "las" not in module._modules:
        # Making it fits tables, which is no part of what the model computes.
        with torch._C.DisableTorchFunction():
            module.add_module("las", TransformersAttention())
    return _attention(module, *args, **kwargs)


AttentionInterface.register(ATTENTION, _attention)
AttentionInterface.register(OBSERVING, _observing_attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)
AttentionMaskInterface.register(OBSERVING, eager_mask)


def guard(model: PreTrainedModel) -> None:
    """Let a converted model refuse calls that are not converted, and keep its head when resized."""
    model.register_forward_pre_hook(check_call, with_kwargs=True)
    model.resize_token_embeddings = functools.partial(resize_token_embeddings, model)


def resize_token_embeddings(model: PreTrainedModel, *args: Any, **kwargs: Any) -> nn.Module:
    """Resize as transformers does, but let the output layer go on reading spikes.

    Args:
        model: A converted model.
        args: As transformers takes them.
        kwargs: Likewise.
    """
    head = model.get_output_embeddings()
    embeddings = type(model).resize_token_embeddings(model, *args, **kwargs)
    new = model.get_output_embeddings()
    if isinstance(head, Linear) and new is not head:
        # Only the outputs are others; the spikes at the input stay what calibration found.
        head.set_outputs(new.weight, new.bias)
        model.set_output_embeddings(head)
        model.tie_weights()
    return embeddings


def check_call(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a call that would not compute what was converted; a forward pre-hook.

    Raises:
        ValueError: If attention is no longer the spiking one, or a sequence is longer than the
            model allows.
    """
    config: Any = model.config
    if config._attn_implementation != ATTENTION:
        raise ValueError(
            f"model: its attention was set to {config._attn_implementation!r}, which is not made "
            f"of spikes; call model.set_attn_implementation({ATTENTION!r})"
        )
    most = getattr(config, "max_position_embeddings", None)
    ids = kwargs.get("input_ids", args[0] if args else None)
    if most is None or not isinstance(ids, Tensor) or ids.dim() != 2:
        return
    most -= config.pad_token_id + 1 if config.model_type in OFFSET_POSITIONS else 0
    if ids.shape[1] > most:
        raise ValueError(
            f"input_ids: {ids.shape[1]} tokens, but the model has {most} positions; truncate them"
        )
