"""What the blocks are made of: neurons, weights with their norms, and the axes they work on."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spikeloom.hosted import Make, made
from spikeloom.kernel.neuron import Neuron
from spikeloom.layer import SpikingLayer
from spikeloom.models.spiking_mlp.norms import NORMS, TokenBatchNorm, make_norm
from spikeloom.models.spiking_mlp.sizes import Size, check_option
from spikeloom.neurons.lif import LIF

__all__ = ["Parts", "each_step", "each_token", "join", "relu", "thirds"]


class Parts:
    """What the blocks are made of: how they make their neurons and norms.

    Args:
        make: Turns a neuron description into a module, such as ``plugins.<host>.make``.
        neuron: The description; None is the paper's ``LIF(detach_reset=True)``.
        norm: ``"bn"``, ``"tdbn"`` or ``"tebn"``.
        bn_axis: What the channel blocks normalise, ``"channel"`` or ``"token"``.
        steps: T, for tebn.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.models.spiking_mlp import Parts, TokenBlock
        >>> block = TokenBlock((4, 6), 5, Parts(neuron=spikeloom.neurons.LIF(v_reset=None)))
        >>> block(torch.ones(4, 2, 5, 4, 6)).shape
        torch.Size([4, 2, 5, 4, 6])
    """

    def __init__(
        self,
        make: Make = SpikingLayer,
        neuron: Neuron | None = None,
        *,
        norm: str = "bn",
        bn_axis: str = "channel",
        steps: int = 4,
    ) -> None:
        check_option("bn_axis", bn_axis, ("channel", "token"))
        check_option("norm", norm, NORMS)
        self._make = make
        self._neuron = LIF(detach_reset=True) if neuron is None else neuron
        self._norm, self._axis, self._steps = norm, bn_axis, steps

    def spiking(self) -> nn.Module:
        """A neuron of its own for one place, which takes whole sequences."""
        if self._make is relu:
            return nn.ReLU()  # of the twin without spikes, and so no neuron
        return made(self._make, copy.deepcopy(self._neuron))

    def convolution(self, weight: nn.Conv1d | nn.Conv2d, groups: int = 1) -> nn.Sequential:
        """A convolution and its norm: spikes in, current out."""
        batch_norm = nn.BatchNorm1d if isinstance(weight, nn.Conv1d) else nn.BatchNorm2d
        return nn.Sequential(weight, *self.norm(batch_norm(weight.out_channels), groups))

    def linear(self, weight: nn.Linear, tokens: Size | None = None) -> nn.Sequential:
        """A linear layer over channels and its norm, which may be that of the tokens."""
        if tokens is not None and self._axis == "token":
            return nn.Sequential(weight, *self.norm(TokenBatchNorm(tokens)))
        return nn.Sequential(weight, *self.norm(nn.BatchNorm1d(weight.out_features)))

    def norm(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, groups: int = 1) -> list[nn.Module]:
        """The modules that make up a norm."""
        return make_norm(self._norm, norm, self._steps, groups)


def each_step(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module without time to ``[T, B, ...]``."""
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def each_token(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module over channels to every token of ``[T, B, C, H, W]``: one matrix product."""
    tokens = x.movedim(2, -1)
    return module(tokens.flatten(0, 3)).unflatten(0, tokens.shape[:4]).movedim(-1, 2)


def join(maps: Sequence[Tensor]) -> Tensor:
    """Concatenate ``[T, B, C, H, W]`` along the channels, which stay last in memory."""
    return torch.cat([x.movedim(2, -1) for x in maps], -1).movedim(-1, 2)


def thirds(x: Tensor) -> list[Tensor]:
    """Three groups of channels, each dense in memory, as neurons and convolutions like it."""
    # Unpacked by name, because torch.fx follows that and no loop.
    first, second, third = x.movedim(2, -1).chunk(3, -1)
    return [group.contiguous().movedim(-1, 2) for group in (first, second, third)]


def relu(neuron: Neuron) -> nn.Module:
    """What stands for every neuron in the twin without spikes."""
    return nn.ReLU()
