"""The published layout of the spiking MLP's weights, and where each of them lives here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spikeloom.models.spiking_mlp.patches import PatchEmbedding, PatchEncoding

__all__ = ["infer", "load", "token_places"]


class Place(NamedTuple):
    """A module here, and the published modules whose tensors it holds one after the other."""

    module: nn.Module
    published: tuple[str, ...]


def load(
    model: nn.Module, state_dict: Mapping[str, Tensor], places: Iterable[Place] | None = None
) -> None:
    """Copy a published state dict into a model of the same configuration, with its dtype.

    Args:
        model: A :class:`~spikeloom.models.SpikingMLP`, or the block that ``places`` describes.
        state_dict: In the published layout.
        places: Where the tensors belong; by default those of the whole network.

    Raises:
        ValueError: If keys are missing, left over or of another shape; nothing is copied then.
    """
    found: dict[str, Tensor] = {}
    missing: list[str] = []
    wrong: list[str] = []
    left = set(state_dict)
    own = model.state_dict()
    for key, sources in _entries(model, _places(model) if places is None else places):
        absent = [name for name in sources if name not in state_dict]
        left.difference_update(sources)
        # Older state dicts do not count their batches.
        if absent:
            missing += [name for name in absent if not name.endswith("num_batches_tracked")]
            continue
        value = _joined(key, [state_dict[name] for name in sources])
        if _significant(value) != _significant(own[key]):
            wrong.append(f"{', '.join(sources)} {tuple(value.shape)}, not {tuple(own[key].shape)}")
        else:
            found[key] = value.reshape(own[key].shape)
    _refuse(missing, sorted(left), wrong)
    model.to(next(value.dtype for value in found.values() if value.is_floating_point()))
    model.load_state_dict({**own, **found})


def _entries(model: nn.Module, places: Iterable[Place]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Our state-dict key -> the published keys whose tensors belong there."""
    names = {module: name for name, module in model.named_modules()}
    for module, published in places:
        for entry in module.state_dict():
            yield f"{names[module]}.{entry}", tuple(f"{source}.{entry}" for source in published)


def _joined(key: str, parts: list[Tensor]) -> Tensor:
    """The tensors of merged convolutions, in one; they have counted the same batches."""
    if key.endswith(".scale"):
        return torch.stack(parts, 1)
    return torch.cat(parts) if parts[0].dim() else parts[0]


def _significant(tensor: Tensor) -> list[int]:
    """The shape without axes of length 1: what is a 1x1 convolution there is a matrix here."""
    return [length for length in tensor.shape if length > 1]


def _refuse(missing: list[str], left: list[str], wrong: list[str]) -> None:
    problems = {"missing": missing, "left over": left, "of another shape": wrong}
    listed = [f"{what}: {_few(keys)}" for what, keys in problems.items() if keys]
    if listed:
        raise ValueError(
            f"state_dict: belongs to another configuration; {'; '.join(listed)}. "
            f"SpikingMLP.from_published infers the configuration from the state dict"
        )


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")


# --- Where everything lives ------------------------------------------------------------------


def _places(model: Any) -> Iterator[Place]:
    number = 0
    for stage_number, stage in enumerate(model.stages):
        yield from _embedding_places(stage.embed, f"to_patch_embedding.{stage_number}")
        for block in stage.blocks:
            yield from token_places(block.token, f"token_mix.{number}.")
            channel = f"channel_mix.{number}.1.net"
            yield from _layer(block.channel.up, (f"{channel}.0",), (f"{channel}.1",))
            yield from _layer(block.channel.down, (f"{channel}.3",), (f"{channel}.4",))
            number += 1
    yield from _norm(model.head[:-3], ("batch_norm",))
    yield Place(model.head[-1], ("mlp_head.1",))


def token_places(block: Any, prefix: str = "") -> Iterator[Place]:
    """The places of one token block.

    Args:
        block: A :class:`~spikeloom.models.spiking_mlp.TokenBlock`.
        prefix: What the published names begin with.
    """
    yield from _layer(block.along_width, (f"{prefix}proj_w.1",), (f"{prefix}proj_w.2",))
    yield from _layer(block.along_height, (f"{prefix}proj_h.1",), (f"{prefix}proj_h.2",))
    yield from _layer(block.fuse, (f"{prefix}fuse.0",), (f"{prefix}fuse.1",))
    if block.fresh_identity:
        yield from _norm(block.identity, (f"{prefix}BN",))


def _embedding_places(embed: Any, name: str) -> Iterator[Place]:
    if isinstance(embed, PatchEmbedding):
        yield Place(embed.weight, (f"{name}.0",))
        yield from _norm(embed.norm, (f"{name}.1",))
    elif isinstance(embed, PatchEncoding):
        groups = [f"{name}.cell2node.{group}" for group in range(3)]
        yield from _layer(embed.groups, [f"{g}.0" for g in groups], [f"{g}.1" for g in groups])
        yield from _layer(embed.link_1, (f"{name}.node1_node2.0",), (f"{name}.node1_node2.1",))
        yield from _layer(embed.link_2, (f"{name}.node2_node3.0",), (f"{name}.node2_node3.1",))
    else:
        yield from _layer(embed.merge, (f"{name}.0",), (f"{name}.1",))


def _layer(layer: Any, weight: Iterable[str], norm: Iterable[str]) -> Iterator[Place]:
    yield Place(layer[0], tuple(weight))
    yield from _norm(layer[1:], norm)


def _norm(modules: Iterable[nn.Module], published: Iterable[str]) -> Iterator[Place]:
    """A temporal norm's factors are published inside the norm; here they follow it."""
    for module in modules:
        yield Place(module, tuple(published))


# --- The configuration behind a state dict ---------------------------------------------------


def infer(state_dict: Mapping[str, Tensor], steps: int) -> dict[str, Any]:
    """The arguments of SpikingMLP that a published state dict was made with.

    Args:
        state_dict: In the published layout.
        steps: T, unless the state dict knows it.

    Raises:
        ValueError: If it is no state dict of a published spiking MLP.
    """
    needed = ("to_patch_embedding.0.0.weight", "token_mix.0.proj_w.1.weight", "mlp_head.1.weight")
    missing = [name for name in needed if name not in state_dict]
    if missing:
        raise ValueError(
            f"state_dict: is not in the published layout; missing: {', '.join(missing)}"
        )
    dim, in_channels, *patch = state_dict[needed[0]].shape
    width, height = (state_dict[f"token_mix.0.proj_{a}.1.weight"].shape[0] for a in "wh")
    scale = state_dict.get("batch_norm.scale")
    return {
        "image_size": (height * patch[0], width * patch[1]),
        "patch_size": (patch[0], patch[1]),
        "in_channels": in_channels,
        "num_classes": state_dict["mlp_head.1.weight"].shape[0],
        "dim": dim,
        "depths": _depths(state_dict, dim),
        "bn_axis": "token",
        "steps": steps if scale is None else len(scale),
        "expansion": state_dict["channel_mix.0.1.net.0.weight"].shape[0] // dim,
        "patch_encoding": "conv" if "token_mix.0.BN.weight" in state_dict else "spiking",
        "norm": "bn" if scale is None else "tebn",
    }


def _depths(state_dict: Mapping[str, Tensor], dim: int) -> tuple[int, ...]:
    """Blocks in each stage, told by their channels: dim, 2 dim, 4 dim ..."""
    stages = {
        int(m[1]) for m in (re.match(r"to_patch_embedding\.(\d+)\.", k) for k in state_dict) if m
    }
    channels = [
        tensor.shape[0]
        for name, tensor in state_dict.items()
        if re.fullmatch(r"token_mix\.\d+\.fuse\.0\.weight", name)
    ]
    return tuple(channels.count(dim * 2**stage) for stage in sorted(stages))
