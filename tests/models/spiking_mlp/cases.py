"""Small spiking MLPs in which every layer fires, and images for them."""

import torch
from torch import nn

from spikeloom.models import SpikingMLP
from spikeloom.models.spiking_mlp.norms import StepScale


def small(**changes) -> SpikingMLP:
    settings = {"image_size": 8, "patch_size": 2, "in_channels": 1, "num_classes": 10}
    settings |= {"dim": 6, "depths": (1, 1)}
    torch.manual_seed(0)
    return SpikingMLP(**{**settings, **changes})


def wake(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random norms, negative gains among them, so that every layer fires and nothing is neutral."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor, low, high in (
                    (module.weight, 0.5, 3.0),
                    (module.bias, -0.5, 2.5),
                    (module.running_mean, -0.3, 0.3),
                    (module.running_var, 0.3, 2.0),
                ):
                    if tensor is not None:
                        noise = torch.rand(tensor.shape, generator=generator)
                        tensor.copy_(noise * (high - low) + low)
                if module.weight is not None:
                    module.weight[::5] *= -1
            elif isinstance(module, StepScale) or hasattr(module, "scale"):
                module.scale.uniform_(0.7, 1.4, generator=generator)
    return model


def image(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2
