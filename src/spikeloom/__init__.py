"""spikeloom: neurons, converters and compressors of five papers, at home in three frameworks."""

from spikeloom import neurons, nn
from spikeloom.diagnosis import doctor
from spikeloom.kernel.call import run
from spikeloom.kernel.neuron import Gated, Neuron, PerStep
from spikeloom.kernel.source import source
from spikeloom.layer import SpikingLayer
from spikeloom.nn import event_driven, pack_saved

__all__ = [
    "Gated",
    "Neuron",
    "PerStep",
    "SpikingLayer",
    "doctor",
    "event_driven",
    "neurons",
    "nn",
    "pack_saved",
    "run",
    "source",
]

__version__ = "0.1.0"
