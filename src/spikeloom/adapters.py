"""Adapters of PEFT, such as LoRA's, which add to what a layer computes beside its weight."""

from __future__ import annotations

from torch import nn

__all__ = ["check_merged"]


def check_merged(model: nn.Module) -> None:
    """Raise if a model has adapters that are not merged into its weights.

    Args:
        model: Any model.

    Raises:
        ValueError: If it does; the message names one, and the remedy.
    """
    for name, module in model.named_modules():
        if type(module).__module__.partition(".")[0] == "peft":
            raise ValueError(
                f"model: {name or 'the model itself'} ({type(module).__name__}) adds an adapter of "
                "PEFT to a layer, beside its weight; merge the adapters into the weights first: "
                "model = model.merge_and_unload()"
            )
