"""What LAS is compared with: plain rounding, and SpikingJelly's own recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["as_qwen2", "by_spikingjelly", "refused_by_spikingjelly", "rounded"]


@contextmanager
def rounded(model: nn.Module, bits: int, calibration: list[Tensor]) -> Iterator[nn.Module]:
    """The float model, every linear layer's input rounded to so many bits and a sign."""
    largest: dict[nn.Module, float] = {}

    def see(layer: nn.Module, args: tuple[Tensor]) -> None:
        largest[layer] = max(largest.get(layer, 0.0), float(args[0].abs().max()))

    def cut(layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        unit = largest[layer] / 2**bits
        return ((args[0] / unit).round().clamp(-(2**bits), 2**bits) * unit,)

    with _hooked(model, see), torch.no_grad():
        for ids in calibration:
            model(input_ids=ids)
    with _hooked(model, cut):
        yield model


@contextmanager
def _hooked(model: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """A hook before every linear layer."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def as_qwen2(model: Any) -> nn.Module:
    """The same function as a Qwen2, which is a LLaMA whose q, k and v have a bias: here zero."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = model.config.to_dict()
    other = Qwen2ForCausalLM(
        Qwen2Config(**{key: config[key] for key in Qwen2Config().to_dict() if key in config
                       if key not in ("model_type", "architectures", "transformers_version")})
    )  # fmt: skip
    missing, unexpected = other.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected and all(name.endswith("proj.bias") for name in missing)
    with torch.no_grad():
        for name, value in other.named_parameters():
            if name.endswith("proj.bias"):
                value.zero_()
    return other.eval()


def by_spikingjelly(model: nn.Module, steps: int, calibration: list[Tensor]) -> nn.Module:
    """The network of SpikingJelly's recipe for a Qwen2, 16 levels as by default."""
    from spikingjelly.activation_based import ann2snn, functional

    config = ann2snn.Qwen2SNNConfig(time_steps=steps)
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in calibration]
    qwen = as_qwen2(model)
    scales = ann2snn.calibrate_qwen2_snn(qwen, batches, config)
    network = ann2snn.ModuleConverter(ann2snn.Qwen2SNNRecipe(scales, config)).convert(qwen)
    # Its neurons keep their potentials from call to call; each passage begins at rest.
    network.register_forward_pre_hook(lambda module, args: functional.reset_net(module))
    return network


def refused_by_spikingjelly(model: nn.Module, calibration: list[Tensor]) -> dict[str, str]:
    """What SpikingJelly's other recipes say of the model: recipe -> first line of the error."""
    from spikingjelly.activation_based import ann2snn

    data = [(ids, ids) for ids in calibration]
    recipes = {
        "rate coding": ann2snn.RateCodingRecipe(data),
        "local threshold balancing": ann2snn.LocalThresholdBalancingRecipe(data),
        "STA": ann2snn.STATransformerRecipe(data),
        "TD equivalent": ann2snn.TransformerTDEquivalentRecipe(),
    }
    found = {}
    for name, recipe in recipes.items():
        try:
            ann2snn.FXConverter(recipe).convert(model)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return found
