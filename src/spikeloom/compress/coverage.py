"""Which weights of a model are compressed, and why the others are not."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from spikeloom.rows import is_weight_layer

__all__ = ["by_reason", "weights_of", "why_left_out"]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """All weights of a model by name, each once.

    Weights are those of the layers that can be compressed, and all other parameters with more than
    one value along two axes or more. Biases and the gains of normalisations are none.

    Args:
        model: The model.
    """
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        of_layer = own == "weight" and is_weight_layer(module)
        is_matrix = sum(size > 1 for size in parameter.shape) > 1
        if of_layer or (is_matrix and not hasattr(module, "normalized_shape")):
            found[name] = parameter
    return found


def why_left_out(
    model: nn.Module, layers: Collection[str], reasons: Mapping[str, str]
) -> dict[str, str]:
    """Why each weight that is not a layer's to be compressed is left out, by the weight's name.

    Args:
        model: The model.
        layers: Names of the layers that are compressed.
        reasons: What is known already, by the name of a module; it holds for what is inside.
    """
    found = {}
    for name in weights_of(model):
        owner, _, own = name.rpartition(".")
        if owner in layers and own == "weight":
            continue
        path = owner
        while path not in reasons and path:
            path = path.rpartition(".")[0]
        kind = _kind(model.get_submodule(owner))
        found[name] = reasons.get(path) or f"{kind} is not a layer that can be compressed"
    return found


def _kind(module: nn.Module) -> str:
    """A module's class, with its package unless that is torch: other Linears are not torch's."""
    package = type(module).__module__.partition(".")[0]
    name = type(module).__name__
    return name if package == "torch" else f"{name} of {package}"


def by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of the weights that each reason holds for.

    Args:
        reasons: Why each weight is left out, by its name.
    """
    found: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        found.setdefault(reason, []).append(name)
    return found
