"""SpikeLM: elastic bi-spiking neurons in a transformer that is still to be trained."""

from spikeloom.convert.spikelm.amplitude import BiSpikes, measure_amplitude
from spikeloom.convert.spikelm.merge import merge_amplitude
from spikeloom.convert.spikelm.recipe import SpikeLM

__all__ = ["BiSpikes", "SpikeLM", "measure_amplitude", "merge_amplitude"]
