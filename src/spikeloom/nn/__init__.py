"""Layers whose cost follows the spikes that there are, and memory in bits."""

from spikeloom.nn.linear import SpikeLinear

__all__ = ["SpikeLinear"]
