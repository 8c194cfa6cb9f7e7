"""The sign gradient descent neuron as a snnTorch module."""

from __future__ import annotations

from spikeloom import neurons

from ..adapter import component
from .module import SpikingModule

__all__ = ["SignGD"]


@component("signGD", "H. Oh and Y. Lee, Sign Gradient Descent-based Neuronal Dynamics, ICML 2024")
class SignGD(SpikingModule, describes=neurons.SignGD):
    """Tracks a function with one bit a step; :class:`spikeloom.neurons.SignGD` has the rest.

    Input and output are increments: what arrives is summed, the sum of what leaves is the estimate.

    Example:
        >>> import torch
        >>> from spikeloom.neurons import Exponential
        >>> from spikeloom.plugins.snntorch import SignGD
        >>> node = SignGD("relu", Exponential(1.0, 0.5), time_first=True)
        >>> moves, *states = node(torch.tensor([0.8, 0.0, 0.0, 0.0])[:, None])
        >>> moves.flatten()
        tensor([ 1.0000, -0.5000,  0.2500,  0.1250])
    """
