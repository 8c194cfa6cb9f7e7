"""Neuron descriptions that no framework owns: a file per idea."""

from spikeloom.neurons import surrogate
from spikeloom.neurons.lif import IF, LIF, Leaky, LIFBox
from spikeloom.neurons.schedules import Constant, Exponential, Inverse
from spikeloom.neurons.signgd import AnalogEncoder, SignGD, SignGDBits, SignTracker
from spikeloom.neurons.trace import Trace

__all__ = [
    "IF",
    "LIF",
    "AnalogEncoder",
    "Constant",
    "Exponential",
    "Inverse",
    "LIFBox",
    "Leaky",
    "SignGD",
    "SignGDBits",
    "SignTracker",
    "Trace",
    "surrogate",
]
