"""The multiplication-free spiking MLP: an image network in which weights only ever see spikes.

Sequences are ``[T, B, C, H, W]``, time first. A *current* is the real value in front of a neuron, a
*spike* is 0 or 1. Every layer is weight, then batch norm, then neuron; shortcuts add currents.
After :func:`spikeloom.verify.fold_norms` no multiplication is left behind the first convolution.

In memory the channels come last, so that what the paper calls a 1x1 convolution is one matrix
product over all tokens.

Source: Li, Leng, Shen et al., "Efficient Deep Spiking Multi-Layer Perceptrons with
Multiplication-Free Inference", IEEE TNNLS 36(4), arXiv 2306.12465.
"""

from spikeloom.models.spiking_mlp.blocks import Block, ChannelBlock, Stage, TokenBlock
from spikeloom.models.spiking_mlp.network import CONFIGURATIONS, SpikingMLP
from spikeloom.models.spiking_mlp.parts import Parts
from spikeloom.models.spiking_mlp.patches import PatchEmbedding, PatchEncoding, PatchMerging

__all__ = [
    "CONFIGURATIONS",
    "Block",
    "ChannelBlock",
    "Parts",
    "PatchEmbedding",
    "PatchEncoding",
    "PatchMerging",
    "SpikingMLP",
    "Stage",
    "TokenBlock",
]
