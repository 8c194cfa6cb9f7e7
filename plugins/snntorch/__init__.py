"""spikeloom's neurons as snnTorch modules.

``make(neuron)`` turns any neuron into one. A class of its own is three lines, in a file here, with
its name added below; :class:`SpikingModule` shows how.
"""

from ..adapter import require

require("snntorch", ">=1.0")

from .alif import ALIF  # noqa: E402
from .alpha import Alpha  # noqa: E402
from .elastic import ElasticBiSpike  # noqa: E402
from .export import export_to_nir  # noqa: E402
from .few_spike import HG, OAT  # noqa: E402
from .lapicque import Lapicque  # noqa: E402
from .leaky import Leaky  # noqa: E402  # after the check, so that its error is the one seen
from .module import SpikingModule, make  # noqa: E402
from .native import to_host  # noqa: E402
from .network import reset  # noqa: E402
from .rleaky import RLeaky  # noqa: E402
from .signgd import SignGD  # noqa: E402
from .synaptic import Synaptic  # noqa: E402

__all__ = [
    "ALIF",
    "HG",
    "OAT",
    "Alpha",
    "ElasticBiSpike",
    "Lapicque",
    "Leaky",
    "RLeaky",
    "SignGD",
    "SpikingModule",
    "Synaptic",
    "export_to_nir",
    "make",
    "reset",
    "to_host",
]
