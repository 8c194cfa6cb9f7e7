"""ANN to SNN: a file per recipe."""

from spikeloom.convert.las import LAS, set_form
from spikeloom.convert.las_storage import load_las
from spikeloom.convert.signgd import SignGD
from spikeloom.convert.spikelm import SpikeLM
from spikeloom.convert.spikelm_amplitude import BiSpikes, measure_amplitude
from spikeloom.convert.spikelm_merge import merge_amplitude

__all__ = [
    "LAS",
    "BiSpikes",
    "SignGD",
    "SpikeLM",
    "load_las",
    "measure_amplitude",
    "merge_amplitude",
    "set_form",
]
