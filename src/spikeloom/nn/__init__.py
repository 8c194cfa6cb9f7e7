"""Layers whose cost follows the spikes that there are, and memory in bits."""

from spikeloom.nn.linear import SpikeLinear
from spikeloom.nn.saved import pack_saved, unpack_saved

__all__ = ["SpikeLinear", "pack_saved", "unpack_saved"]
