"""ANN to SNN: a folder per recipe."""

from spikeloom.convert.las import LAS, las_folder, load_las, set_form
from spikeloom.convert.signgd import SignGD
from spikeloom.convert.spikelm import BiSpikes, SpikeLM, measure_amplitude, merge_amplitude
from spikeloom.convert.sweep import sweep_steps

__all__ = [
    "LAS",
    "BiSpikes",
    "SignGD",
    "SpikeLM",
    "las_folder",
    "load_las",
    "measure_amplitude",
    "merge_amplitude",
    "set_form",
    "sweep_steps",
]
