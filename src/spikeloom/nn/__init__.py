"""Layers whose cost follows the spikes that there are, and memory in bits."""

from spikeloom.nn.conv import SpikeConv1d, SpikeConv2d
from spikeloom.nn.linear import SpikeLinear
from spikeloom.nn.recurrent import Recurrent
from spikeloom.nn.replace import dense, event_driven
from spikeloom.nn.saved import pack_saved, unpack_saved

__all__ = [
    "Recurrent",
    "SpikeConv1d",
    "SpikeConv2d",
    "SpikeLinear",
    "dense",
    "event_driven",
    "pack_saved",
    "unpack_saved",
]
