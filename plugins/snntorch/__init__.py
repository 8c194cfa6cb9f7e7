"""spikeloom's neurons as snnTorch modules.

``make(neuron)`` turns any neuron into one. A class of its own is three lines, in a file here, with
its name added below; it then takes the arguments of its description and those of every snnTorch
neuron (``init_hidden``, ``output``, ``time_first``, ``implementation``)::

    @component("few-spike", "where the method was published")
    class FewSpike(Described):
        description = neurons.FewSpike
"""

from ..adapter import require

require("snntorch", ">=1.0")

from .leaky import Leaky  # noqa: E402  # after the check, so that its error is the one seen
from .module import Described, SpikingModule, make  # noqa: E402
from .network import reset  # noqa: E402

__all__ = ["Described", "Leaky", "SpikingModule", "make", "reset"]
