"""Neuron descriptions that no framework owns: a file per idea.

Other packages add theirs through the entry-point group ``spikeloom.neurons``::

    [project.entry-points."spikeloom.neurons"]
    Izhikevich = "my_neurons.izhikevich:Izhikevich"    # becomes spikeloom.neurons.Izhikevich
"""

from importlib import metadata
from typing import Any

from spikeloom.neurons import surrogate
from spikeloom.neurons.adex import AdEx
from spikeloom.neurons.alif import ALIF
from spikeloom.neurons.alpha import Alpha
from spikeloom.neurons.cuba_lif import CubaLIF
from spikeloom.neurons.current_lif import CurrentLIF
from spikeloom.neurons.elastic import ElasticBiSpike
from spikeloom.neurons.few_spike import OAT, FewSpike
from spikeloom.neurons.gated import HG, LinearHG
from spikeloom.neurons.iaf import IAF
from spikeloom.neurons.izhikevich import Izhikevich
from spikeloom.neurons.klif import KLIF
from spikeloom.neurons.lapicque import Lapicque
from spikeloom.neurons.leaky import Leaky
from spikeloom.neurons.li import LI, CubaLI
from spikeloom.neurons.liaf import LIAF
from spikeloom.neurons.lif import IF, LIF
from spikeloom.neurons.lif_box import LIFBox
from spikeloom.neurons.nonlinear import EIF, QIF
from spikeloom.neurons.parametric_lif import ParametricLIF
from spikeloom.neurons.range_reduction import Reduced, fit_reduced
from spikeloom.neurons.schedules import Constant, Exponential, Inverse
from spikeloom.neurons.signgd import AnalogEncoder, SignGD, SignGDBits, SignTracker
from spikeloom.neurons.synaptic import Synaptic
from spikeloom.neurons.tables import draw_hg, fit_hg
from spikeloom.neurons.trace import Trace

__all__ = [
    "ALIF",
    "EIF",
    "HG",
    "IAF",
    "IF",
    "KLIF",
    "LI",
    "LIAF",
    "LIF",
    "OAT",
    "QIF",
    "AdEx",
    "Alpha",
    "AnalogEncoder",
    "Constant",
    "CubaLI",
    "CubaLIF",
    "CurrentLIF",
    "ElasticBiSpike",
    "Exponential",
    "FewSpike",
    "Inverse",
    "Izhikevich",
    "LIFBox",
    "Lapicque",
    "Leaky",
    "LinearHG",
    "ParametricLIF",
    "Reduced",
    "SignGD",
    "SignGDBits",
    "SignTracker",
    "Synaptic",
    "Trace",
    "draw_hg",
    "fit_hg",
    "fit_reduced",
    "surrogate",
]


def __getattr__(name: str) -> Any:
    # Private names are asked for by import and inspection, which should not search every package.
    points = () if name.startswith("_") else metadata.entry_points(group="spikeloom.neurons")
    found = {point.name: point for point in points}
    if name in found:
        return found[name].load()
    others = ", ".join((*__all__, *found))
    raise AttributeError(f"spikeloom.neurons has no neuron {name!r}; there are {others}")
