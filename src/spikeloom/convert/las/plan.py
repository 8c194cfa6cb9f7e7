"""What a converted network is made of: how its layers are built again when it is loaded."""

from __future__ import annotations

from typing import Any

from torch import nn

from spikeloom.convert.las.attention import EAGER, Softmax
from spikeloom.convert.las.calls.container import calls_of
from spikeloom.convert.las.calls.kinds import Magnitude
from spikeloom.convert.las.layers import Activation, WeightLayer
from spikeloom.convert.las.norms import Norm
from spikeloom.convert.las.sites import SharedSite, Site

__all__ = ["plan_of"]


def plan_of(network: nn.Module, exclude: list[str]) -> dict[str, Any]:
    """What has to be known beside the weights to build a converted network again."""
    plan: dict[str, Any] = {
        "exclude": exclude,
        "sites": {},
        "tables": {},
        "shared": {},
        "calls": calls_of(network),
        "eager": [name for name, module in network.named_modules() if hasattr(module, EAGER)],
    }
    for name, module in network.named_modules():
        if isinstance(module, WeightLayer) and isinstance(module.site, SharedSite):
            plan["shared"][name] = module.source.name
        elif isinstance(module, Site):
            assert module.neuron is not None
            plan["sites"][name] = {
                "steps": module.neuron.steps,
                "shapes": [list(getattr(module, key).shape) for key in module.neuron.ranges],
                "rounding": module.neuron.rounding,
                "users": module.users,
            }
        elif isinstance(module, Activation):
            plan["tables"][name] = [module.steps, module.segments, module.reach, module.focus]
        elif isinstance(module, (Norm, Softmax, Magnitude)):
            plan["tables"][name] = [module.steps, module.segments]
    return plan
