"""Neuron descriptions that no framework owns: a file per idea."""

from spikeloom.neurons import surrogate
from spikeloom.neurons.lif import IF, LIF, Leaky, LIFBox
from spikeloom.neurons.trace import Trace

__all__ = ["IF", "LIF", "LIFBox", "Leaky", "Trace", "surrogate"]
