"""What a converted model of transformers is made of beside torch's layers, and how it is called.

Importing this registers spiking attention with transformers. A pickled network names
:class:`TransformersAttention`, so that reading it registers it as well.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, pytorch_utils
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface

from spikeloom.convert.las.attention import ATTENTION, EAGER, OBSERVING, Attention
from spikeloom.convert.las.cached import encode_in_cache, note_cache
from spikeloom.convert.las.calls.interception import let_pass
from spikeloom.convert.las.layers import Linear, WeightLayer, marked, owned
from spikeloom.convert.las.sites import Site

__all__ = ["Conv1D", "TransformersAttention", "guard"]

try:
    from transformers.utils.output_capturing import _active_collector as collector
except ImportError:  # a version of transformers that does not tell which outputs are asked for
    collector = None

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
        marked(self, original)

    @property
    def matrix(self) -> Tensor:
        """The weights as ``[out, in]``."""
        return self.weight.T

    def plain(self) -> nn.Module:
        """``Conv1D`` with the same weights."""
        layer = pytorch_utils.Conv1D(self.nf, self.nx)
        layer.weight, layer.bias = self.weight, self.bias
        return marked(layer, self)

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
) -> tuple[Tensor, Tensor | None]:
    """What transformers calls in place of its own attention function."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if getattr(module, EAGER, False):
        # By its operations one by one, as calls of the module.
        return _eager(module)(module, query, key, value, attention_mask, scaling=scaling, **kwargs)  # type: ignore[misc]  # not None
    if "las" not in module._modules:
        raise ValueError(
            f"model: calibration did not reach this {type(module).__name__}, whose values are "
            f"not known; calibrate on batches that use it, or name it in exclude"
        )
    las: Any = module.las
    context, probabilities = las(
        query,
        key,
        value,
        attention_mask,
        scaling,
        weights=_are_wanted(module, kwargs),
        encoded=encode_in_cache(module, key, value),
    )
    return context.transpose(1, 2).contiguous(), probabilities


def _are_wanted(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Whether the probabilities of an attention are asked for; they may be gigabytes."""
    if torch.compiler.is_compiling():
        return True  # a graph computes them in any case, and no trace can read the collector
    config: Any = getattr(module, "config", None)
    if kwargs.get("output_attentions") or getattr(config, "output_attentions", False):
        return True
    return collector is None or any("attentions" in key for key in collector.get() or ())


def _observing_attention(
    module: nn.Module, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """The same during calibration, where an attention gets its sites when it is first called."""
    if "las" not in module._modules and not hasattr(module, EAGER):
        # Making it fits tables, which is no part of what the model computes.
        with torch._C.DisableTorchFunction():
            if _is_plain(module, *args, **kwargs):
                module.add_module("las", TransformersAttention())
                let_pass(module.las)  # type: ignore[arg-type]  # a module
            else:
                setattr(module, EAGER, True)
    return _attention(module, *args, **kwargs)


def _eager(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The attention of a module's own file, operation by operation."""
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)


def _is_plain(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> bool:
    """Whether an attention is a softmax of scaled products and a mask, without sinks or caps."""
    eager = _eager(module)
    if eager is None:
        return True
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    try:
        own, *_ = eager(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    except RuntimeError:
        return True  # it is not for these shapes; the whole network is compared later
    found, _ = Attention()(query, key, value, attention_mask, scaling)
    return torch.allclose(found.transpose(1, 2), own, rtol=1e-2, atol=1e-3 * float(own.abs().max()))


AttentionInterface.register(ATTENTION, _attention)
AttentionInterface.register(OBSERVING, _observing_attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)
AttentionMaskInterface.register(OBSERVING, eager_mask)


def guard(model: PreTrainedModel) -> None:
    """Let a converted model refuse calls that are not converted, and keep its head when resized."""
    model.register_forward_pre_hook(check_call, with_kwargs=True)
    for module in model.modules():
        hooked = note_cache in module._forward_pre_hooks.values()
        if isinstance(getattr(module, "las", None), Attention) and not hooked:
            module.register_forward_pre_hook(note_cache, with_kwargs=True)
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
    if most is None or not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point():
        return
    most -= config.pad_token_id + 1 if config.model_type in OFFSET_POSITIONS else 0
    if 0 < most < ids.shape[1]:
        raise ValueError(
            f"input_ids: {ids.shape[1]} tokens, but the model has {most} positions; truncate them"
        )
