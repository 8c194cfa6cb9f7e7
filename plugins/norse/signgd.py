"""The sign gradient descent neuron as Norse modules."""

from __future__ import annotations

from spikeloom import neurons

from ..adapter import component
from .module import SpikeloomCell, SpikeloomSequence

__all__ = ["SignGD", "SignGDCell"]

PAPER = "H. Oh and Y. Lee, Sign Gradient Descent-based Neuronal Dynamics, ICML 2024"


@component("signGD", PAPER)
class SignGDCell(SpikeloomCell, describes=neurons.SignGD):
    """One step of :class:`SignGD`.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import SignGDCell
        >>> move, state = SignGDCell("abs")(torch.tensor([-0.4]))
        >>> move, state.y
        (tensor([0.1500]), tensor([0.1500]))
    """


@component("signGD", PAPER)
class SignGD(SpikeloomSequence, describes=neurons.SignGD):
    """Tracks a function with one bit a step; :class:`spikeloom.neurons.SignGD` has the rest.

    Input and output are increments: what arrives is summed, the sum of what leaves is the estimate.

    Example:
        >>> import torch
        >>> from spikeloom.neurons import Exponential
        >>> from spikeloom.plugins.norse import SignGD
        >>> node = SignGD("relu", Exponential(1.0, 0.5))
        >>> moves, state = node(torch.tensor([0.8, 0.0, 0.0, 0.0])[:, None])
        >>> moves.flatten(), state.y
        (tensor([ 1.0000, -0.5000,  0.2500,  0.1250]), tensor([0.8750]))
    """
