"""Which module becomes which spiking layer, and what stays as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from spikeloom.convert.las.operators import (
    Activation,
    Attention,
    GatedMLP,
    LayerNorm,
    Linear,
    RMSNorm,
)
from spikeloom.convert.las.torch_layers import EncoderLayer, MultiheadAttention

__all__ = ["FAMILIES", "check_length", "replace_layers", "use_spiking_attention"]

# Architectures of transformers whose layers are all modules that the rules below know.
FAMILIES = (
    "bert", "roberta", "distilbert", "gpt2", "opt", "llama", "mistral", "qwen2", "vit",
)  # fmt: skip
ATTENTION = "spikeloom_las"

# Class name -> function; the classes of transformers and torch.
ACTIVATIONS = {
    "AccurateGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "QuickGELUActivation": "quick_gelu",
    "ReLU": "relu",
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}
# Nothing to convert: lookups, and what does nothing at inference.
KEPT = (nn.Embedding, nn.Dropout, nn.Identity, nn.Flatten)
KEPT_NAMES = re.compile(r"RotaryEmbedding$|^LinearActivation$")
# The embedding, its norm and a patch embedding work on pixels and tokens, not on spikes.
FLOAT_PLACES = re.compile(r"(^|\.)(\w*embeddings|embed_tokens|embed_positions)(\.|$)")
GATED = ("gate_proj", "up_proj", "down_proj", "act_fn")


def replace_layers(model: nn.Module, exclude: Sequence[str] = ()) -> None:
    """Put spiking layers in the place of a model's own, in place.

    Args:
        model: A copy that may be changed.
        exclude: Names of modules to leave as they are, with all they contain.

    Raises:
        TypeError: If a module is not known, all of them listed.
        ValueError: If the architecture is not known, or an excluded name does not exist.
    """
    names = dict(model.named_modules())
    for name in exclude:
        if name not in names:
            raise ValueError(f"exclude: the model has no module {name!r}")
    family = getattr(getattr(model, "config", None), "model_type", None)
    if family is not None and family not in FAMILIES:
        raise ValueError(
            f"model: architecture {family!r} is not supported; there are {', '.join(FAMILIES)}"
        )
    unknown: list[str] = []
    made: dict[int, nn.Module] = {}
    done: list[str] = []
    for name, module, parent, attribute in list(_places(model)):
        if _is_under(name, [*exclude, *done]) or FLOAT_PLACES.search(name):
            continue
        # A module that two places share stays shared.
        new = made.get(id(module)) or _spiking(module)
        if new is not None:
            made[id(module)] = new
            done.append(name)
            setattr(parent, attribute, new)
        elif _is_leaf(module) and not _is_kept(module):
            unknown.append(f"{name} ({type(module).__name__})")
    if unknown:
        raise TypeError(
            f"model: no rule converts {', '.join(unknown)}; leave them as they are by naming them "
            f"in exclude"
        )
    _gather_gates(model)


def _places(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module, str]]:
    """Every submodule with its name, its parent and its attribute there."""
    for prefix, parent in model.named_modules():
        for attribute, module in parent.named_children():
            yield f"{prefix}.{attribute}".lstrip("."), module, parent, attribute


def _is_under(name: str, names: Sequence[str]) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in names)


def _is_leaf(module: nn.Module) -> bool:
    return not any(True for _ in module.children()) and not isinstance(
        module, (nn.ModuleList, nn.Sequential, nn.ModuleDict)
    )


def _is_kept(module: nn.Module) -> bool:
    return isinstance(module, KEPT) or bool(KEPT_NAMES.search(type(module).__name__))


def _spiking(module: nn.Module) -> nn.Module | None:
    """The spiking layer for a module; None if there is none."""
    name = type(module).__name__
    if isinstance(module, nn.TransformerEncoderLayer):
        return EncoderLayer(module, _function_name(module.activation))
    if isinstance(module, nn.MultiheadAttention):
        return MultiheadAttention(module)
    if isinstance(module, nn.Linear):
        return Linear(module.weight, module.bias)
    if name == "Conv1D":
        return Linear(module.weight, module.bias, transposed=True)  # type: ignore[arg-type]  # its own
    if isinstance(module, nn.LayerNorm):
        return LayerNorm(module.weight, module.bias, module.eps)
    if name.endswith("RMSNorm"):
        eps = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None) or 1e-6
        return RMSNorm(module.weight, None, float(eps))  # type: ignore[arg-type]  # a parameter
    if isinstance(module, nn.GELU) or name in ACTIVATIONS:
        return Activation(_function_name(module))
    return None


def _function_name(activation: Any) -> str:
    """The name of an activation, a module or a function of torch."""
    if isinstance(activation, nn.GELU):
        return "gelu_tanh" if activation.approximate == "tanh" else "gelu"
    if isinstance(activation, nn.Module):
        return ACTIVATIONS[type(activation).__name__]
    return {"gelu": "gelu", "relu": "relu", "silu": "silu"}[activation.__name__]


def _gather_gates(model: nn.Module) -> None:
    """A gated MLP becomes one layer, because its product is one of spike trains."""
    for _, module, parent, attribute in list(_places(model)):
        parts = [getattr(module, name, None) for name in GATED]
        if all(isinstance(part, (Linear, Activation)) for part in parts):
            setattr(parent, attribute, GatedMLP(*parts))  # type: ignore[arg-type]  # as checked


# --- Hugging Face ------------------------------------------------------------------------------


def use_spiking_attention(model: nn.Module) -> None:
    """Let a model of transformers compute attention with spikes.

    Every attention gets its sites when it is first called.

    Args:
        model: A copy that may be changed.
    """
    from transformers.masking_utils import AttentionMaskInterface, eager_mask
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, eager_mask)
    model.config._attn_implementation = ATTENTION  # type: ignore[union-attr]  # transformers' own


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
        module.add_module("las", Attention())
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    context, probabilities = module.las(query, key, value, attention_mask, scaling)  # type: ignore[operator]  # a module
    return context.transpose(1, 2).contiguous(), probabilities


def check_length(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a sequence that has no positions; a forward pre-hook.

    Raises:
        ValueError: If it is longer than the model allows.
    """
    config = model.config
    most = getattr(config, "max_position_embeddings", None)
    ids = kwargs.get("input_ids", args[0] if args else None)
    if most is None or not isinstance(ids, Tensor) or ids.dim() != 2:
        return
    # RoBERTa's positions begin behind the padding's.
    most -= config.pad_token_id + 1 if config.model_type == "roberta" else 0  # type: ignore[union-attr, operator]  # numbers
    if ids.shape[1] > most:
        raise ValueError(
            f"input_ids: {ids.shape[1]} tokens, but the model has {most} positions; truncate them"
        )
