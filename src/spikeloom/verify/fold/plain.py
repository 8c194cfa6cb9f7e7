"""Modules that compute what torch's class of that kind computes, and nothing else.

A subclass may standardise its weights or end in an activation, a hook may change what comes in and
out: torch.fx shows one call either way. What cannot be told is not folded.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

__all__ = ["has_hooks", "is_plain", "is_plain_norm", "is_transparent", "is_weight"]

# What a value passes through unchanged, in eval mode.
TRANSPARENT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def is_plain(module: nn.Module) -> bool:
    """Whether a module has torch's own forward, or a host's of the same name, and no hooks."""
    if has_hooks(module) or "forward" in vars(module):
        return False
    forward: Any = type(module).forward
    origin, owner = forward.__module__, forward.__qualname__.partition(".")[0]
    if origin.startswith(("torch.nn.modules.", "spikeloom.")):
        return True
    # SpikingJelly's Conv2d is torch's over a sequence; its WSConv2d computes its weights.
    return bool(origin.startswith("spikingjelly.")) and hasattr(nn, owner)


def has_hooks(module: nn.Module) -> bool:
    """Whether a hook may change a module's input or output."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    # Ours hold pruned weights at zero, where scaling leaves them.
    return any(not getattr(hook, "__module__", "").startswith("spikeloom.") for hook in hooks)


def is_weight(module: Any) -> bool:
    """Whether a module is a weight layer whose weights can be scaled: they are no one's result."""
    return (
        isinstance(module, (nn.Linear, _ConvNd))
        and not isinstance(module, _ConvTransposeNd)
        and "weight" in module._parameters
        and is_plain(module)
    )


def is_plain_norm(module: Any) -> bool:
    """Whether a batch norm does nothing else: hosts' subclasses do, temporal norms do not."""
    return (
        isinstance(module, _BatchNorm)
        and module.running_var is not None
        and not (set(dict(module.named_parameters())) - {"weight", "bias"})
        and is_plain(module)
    )


def is_transparent(module: Any) -> bool:
    """Whether a value passes through unchanged."""
    active = isinstance(module, nn.modules.dropout._DropoutNd) and module.training
    return isinstance(module, TRANSPARENT) and not active and is_plain(module)
