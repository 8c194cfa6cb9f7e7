"""Which module becomes which spiking layer, and what stays as it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from spikeloom.convert.las.attention import Attention
from spikeloom.convert.las.layers import Activation, GatedMLP, Linear, Spiking
from spikeloom.convert.las.norms import LayerNorm, RMSNorm
from spikeloom.convert.las.report import listed
from spikeloom.convert.las.torch_layers import EncoderLayer, MultiheadAttention
from spikeloom.grid import GRID, bits_of, has_grid, is_held
from spikeloom.modules import is_neuron

__all__ = [
    "is_float_place",
    "is_kept",
    "is_under",
    "left_in_float",
    "replace_layers",
]

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
FUNCTION_NAMES = {
    nn.functional.gelu: "gelu",
    nn.functional.relu: "relu",
    nn.functional.silu: "silu",
    torch.relu: "relu",
    torch.sigmoid: "sigmoid",
    torch.tanh: "tanh",
}
# Nothing to convert: lookups, losses, and what does nothing at inference.
KEPT = (nn.Embedding, nn.Dropout, nn.Identity, nn.Flatten, nn.modules.loss._Loss)
# The embedding, its norm and a patch embedding work on pixels and tokens, not on spikes.
FLOAT_PLACES = re.compile(r"(^|\.)(\w*embeddings|embed_tokens|embed_positions)(\.|$)")
ITSELF = "'', the model itself"
GATED = ("gate_proj", "up_proj", "down_proj", "act_fn")
# What a rule takes for granted in torch's encoder layer.
ENCODER_PARTS = {
    "self_attn": nn.MultiheadAttention,
    "linear1": nn.Linear,
    "linear2": nn.Linear,
    "norm1": nn.LayerNorm,
    "norm2": nn.LayerNorm,
}


def replace_layers(model: nn.Module, exclude: Sequence[str] = ()) -> nn.Module:
    """Put spiking layers in the place of a model's own, in place.

    Args:
        model: A copy that may be changed.
        exclude: Names of modules to leave as they are, with all they contain; ``""`` is the
            model's own forward.

    Returns:
        The model, or its spiking layer if there is a rule for the model itself.

    Raises:
        TypeError: If modules are neurons, or compiled by TorchScript; all of them are listed.
        ValueError: If the model is converted already, has quantised weights or unfinished
            compression, or an excluded name does not exist or names a part of what is converted as
            a whole.
    """
    _check_names(model, exclude)
    _check_kinds(model, exclude)
    root = nn.ModuleDict({"model": model})
    made: dict[nn.Module, nn.Module] = {}
    done: list[str] = []
    for name, module, parent, attribute in list(_places(root)):
        if is_under(name, [*exclude, *done]) or is_float_place(name):
            continue
        # A module that two places share stays shared.
        new = made.get(module) or _faithful(module, _spiking(module))
        if new is not None:
            _check_whole(name, module, exclude)
            made[module] = new
            done.append(name)
            parent._modules[attribute] = new
    _gather_gates(root)
    return root["model"]


def _check_names(model: nn.Module, exclude: Sequence[str]) -> None:
    """Refuse to exclude what is not there, and models of transformers that are not known."""
    names = dict(model.named_modules(remove_duplicate=False))
    if any(isinstance(module, (Spiking, Attention)) for module in names.values()):
        raise ValueError("model: is converted by LAS already; convert the original")
    first = {module: name for name, module in model.named_modules()}
    for name in exclude:
        if name not in names:
            raise ValueError(f"exclude: the model has no module {name!r}")
        own = first[names[name]]
        parent = names[name.rpartition(".")[0]]
        alias = first[parent] != name.rpartition(".")[0] or not _is_leaf(names[name])
        if own != name and alias and not is_under(own, exclude):
            raise ValueError(f"exclude: {name!r} is {own!r} as well; exclude it by that name")


def _check_kinds(model: nn.Module, exclude: Sequence[str]) -> None:
    """Refuse neurons, what takes no hooks, and weights that are no numbers of torch."""
    left = [name for name in exclude if name]
    if neurons := _outermost(model, is_neuron, left):
        raise TypeError(
            f"model: no rule converts neurons, which spike already: {neurons}. Leave them as they "
            f"are by naming them in exclude"
        )
    if scripts := _outermost(model, _is_script, []):
        raise TypeError(
            f"model: no call within TorchScript can be seen, in modules left in float neither: "
            f"{scripts}. Put the modules in their place that torch.jit compiled"
        )
    if held := _outermost(model, is_held, left):
        raise ValueError(
            f"model: is still being compressed in {held}; convert the network that "
            f"compress.finish(model) makes"
        )
    if stale := _outermost(model, _is_off_grid, left):
        raise ValueError(
            f"model: the weight has changed since it was quantised, and is no longer scale times "
            f"code, in {stale}; quantise again, or remove the buffers {' and '.join(GRID)}"
        )
    if quantised := _outermost(model, _is_quantised, left):
        raise ValueError(
            f"model: has quantised weights in {quantised}; convert the model in float (load it "
            f"without quantization_config, or call its dequantize()), or name the layers in exclude"
        )


def _outermost(
    model: nn.Module, is_of_kind: Callable[[nn.Module], bool], left: Sequence[str]
) -> str:
    """The places of the modules of a kind, but for those in others of them or in what is left."""
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        if is_of_kind(module) and not is_under(name, [*left, *found]):
            found[name] = f"{name or ITSELF} ({type(module).__name__})"
    return listed(list(found.values()))


def _is_script(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _is_quantised(module: nn.Module) -> bool:
    # Those of torch are packed; others are whole numbers, which torch does not multiply.
    own = [*module._parameters.items(), *module._buffers.items()]
    return ".quantized" in type(module).__module__ or any(
        name.endswith("weight") and value is not None and not value.is_floating_point()
        for name, value in own
    )


def _is_off_grid(module: nn.Module) -> bool:
    """Whether a layer has codes that are not its weight's."""
    return has_grid(module) and not module.weight.is_meta and bits_of(module) is None


def _check_whole(name: str, module: nn.Module, exclude: Sequence[str]) -> None:
    """Refuse to exclude a part of what one rule converts."""
    within = [other for other in exclude if other != name and (not name or is_under(other, [name]))]
    if within:
        raise ValueError(
            f"exclude: {within[0]!r} is a part of {name or ITSELF} ({type(module).__name__}), "
            f"which is converted as a whole; exclude all of it or nothing"
        )


def left_in_float(network: nn.Module, exclude: Sequence[str]) -> list[str]:
    """The modules of a converted network that compute with weights or functions, but not spikes.

    Args:
        network: The network.
        exclude: Names of modules that were left as they are.
    """
    named = [name for name in exclude if name]
    return [
        name
        for name, module in network.named_modules()
        if (is_float_place(name) or is_under(name, named))
        and _is_leaf(module)
        and not is_kept(module)
    ]


def _faithful(module: nn.Module, new: nn.Module | None) -> nn.Module | None:
    """The spiking layer, unless it only has the name of a layer that computes something else.

    Args:
        module: A layer.
        new: The spiking layer that its class has.
    """
    if not isinstance(new, (RMSNorm, Activation)):
        return new
    weight = getattr(module, "weight", None)
    like = torch.empty(8) if weight is None else weight.detach()
    x = torch.linspace(-3, 4, 2 * like.shape[-1], dtype=like.dtype, device=like.device)
    x = x.reshape(2, -1)
    try:
        wanted, found = module(x), type(new)(*_arguments(new)).forward(x)
    except (RuntimeError, TypeError, ValueError):
        return new  # it takes other arguments; the whole network is compared later
    return new if torch.allclose(found, wanted, rtol=1e-2, atol=1e-2) else None


def _arguments(new: RMSNorm | Activation) -> tuple[Any, ...]:
    """What makes the layer again, so that the one in use has observed nothing."""
    return (new.function,) if isinstance(new, Activation) else (new.weight, new.bias, new.eps)


def _places(root: nn.ModuleDict) -> Iterator[tuple[str, nn.Module, nn.Module, str]]:
    """The model and every module within, with its name, its parent and its attribute there."""
    yield "", root["model"], root, "model"
    for prefix, parent in root["model"].named_modules():
        for attribute, module in parent._modules.items():
            if module is not None:
                yield f"{prefix}.{attribute}".lstrip("."), module, parent, attribute


def is_under(name: str, names: Sequence[str]) -> bool:
    """Whether a module is one of these or inside one of them."""
    return any(name == other or name.startswith(f"{other}.") for other in names)


def _is_leaf(module: nn.Module) -> bool:
    return not any(True for _ in module.children()) and not isinstance(
        module, (nn.ModuleList, nn.Sequential, nn.ModuleDict)
    )


def is_float_place(name: str) -> bool:
    """Whether a module works on pixels and tokens, not on spikes."""
    return bool(FLOAT_PLACES.search(name))


def is_kept(module: nn.Module) -> bool:
    """Whether a module has nothing to convert."""
    return isinstance(module, KEPT)


def _spiking(module: nn.Module) -> nn.Module | None:
    """The spiking layer for a module; None if there is none."""
    name = type(module).__name__
    if not _has_own_forward(module):
        return None
    if isinstance(module, nn.TransformerEncoderLayer):
        if _odd_part(module) is not None:
            return None
        return EncoderLayer(module, _function_name(module.activation) or "")
    if isinstance(module, nn.MultiheadAttention):
        return MultiheadAttention(module)
    if isinstance(module, nn.Linear):
        return Linear.of(module)
    if name == "Conv1D":
        return _conv1d(module)
    if isinstance(module, nn.LayerNorm):
        return LayerNorm(module) if len(module.normalized_shape) == 1 else None
    if name.endswith("RMSNorm"):
        return _rms_norm(module)
    function = _function_name(module)
    return None if function is None else Activation(function)


def _has_own_forward(module: nn.Module) -> bool:
    """Whether a layer of torch, or one derived from it, computes what torch wrote."""
    known = (nn.Linear, nn.LayerNorm, nn.MultiheadAttention, nn.TransformerEncoderLayer)
    base = next((cls for cls in known if isinstance(module, cls)), None)
    own: Any = type(module).forward
    return "forward" not in vars(module) and (base is None or own is base.forward)


def _conv1d(layer: Any) -> nn.Module:
    """The spiking layer of GPT-2's layer, or of one that is written like it."""
    if type(layer).__module__ != "transformers.pytorch_utils":
        return Linear(layer.weight.T, layer.bias)
    from spikeloom.convert.las.hugging_face import Conv1D

    return Conv1D(layer)


def _rms_norm(norm: Any) -> RMSNorm | None:
    """The spiking layer, if the norm says its eps by one of the usual names."""
    for name in ("variance_epsilon", "eps"):
        if hasattr(norm, name):
            eps = getattr(norm, name)
            return RMSNorm(getattr(norm, "weight", None), None, None if eps is None else float(eps))
    return None


def _odd_part(layer: nn.TransformerEncoderLayer) -> str | None:
    """What of an encoder layer no rule knows; None if all is as torch makes it."""
    for name, kind in ENCODER_PARTS.items():
        if not isinstance(getattr(layer, name), kind):
            return f"{name}={type(getattr(layer, name)).__name__}"
    if _function_name(layer.activation) is None:
        return str(getattr(layer.activation, "__name__", layer.activation))
    return None


def _function_name(activation: Any) -> str | None:
    """The name of an activation, a module or a function of torch; None if it has no table."""
    if isinstance(activation, nn.GELU):
        return "gelu_tanh" if activation.approximate == "tanh" else "gelu"
    if isinstance(activation, nn.Module):
        return ACTIVATIONS.get(type(activation).__name__)
    return FUNCTION_NAMES.get(activation)


def _gather_gates(root: nn.ModuleDict) -> None:
    """A gated MLP becomes one layer, because its product is one of spike trains."""
    for _, module, parent, attribute in list(_places(root)):
        parts = [getattr(module, name, None) for name in GATED]
        if all(isinstance(part, (Linear, Activation)) for part in parts):
            parent._modules[attribute] = GatedMLP(*parts)  # type: ignore[arg-type]  # as checked
