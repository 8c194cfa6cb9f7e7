"""spikeloom's neurons as Norse modules.

Each neuron comes as a pair, as Norse has it: a cell for one step, ``(batch, *)``, and a module
for a sequence, ``(time, batch, *)``, which is one fused kernel. Both are called as
``output, state = module(input_tensor, state)``; with ``state=None`` they begin at rest. They work
inside ``SequentialState``, ``Lift``, ``RecurrentSequential`` and ``RegularizationCell``.

>>> import torch
>>> import norse.torch as snn
>>> from spikeloom.plugins import norse as loom
>>> net = snn.SequentialState(torch.nn.Linear(8, 4), loom.LIFBox(), torch.nn.Linear(4, 2))
>>> output, state = net(torch.rand(16, 3, 8))
>>> output.shape, state[1].v.shape
(torch.Size([16, 3, 2]), torch.Size([3, 4]))
"""

from ..adapter import require

require("norse", ">=1.1")

# ruff: noqa: E402 -- a missing host must be named before anything imports it
from .alif import ALIF, ALIFCell
from .elastic import ElasticBiSpike, ElasticBiSpikeCell
from .export import to_nir
from .few_spike import HG, OAT, HGCell, OATCell
from .iaf import IAF, IAFCell
from .li import LI, LIBox, LIBoxCell, LICell
from .lif import LIF, LIFCell
from .lif_adex import LIFAdEx, LIFAdExCell
from .lif_box import LIFBox, LIFBoxCell, lif_box_feed_forward_step
from .module import SpikeloomCell, SpikeloomSequence, make, make_cell
from .native import to_host
from .recurrent import LIFRecurrent, LIFRecurrentCell
from .regularization import magnitude_accumulator
from .signgd import SignGD, SignGDCell

__all__ = [
    "ALIF",
    "HG",
    "IAF",
    "LI",
    "LIF",
    "OAT",
    "ALIFCell",
    "ElasticBiSpike",
    "ElasticBiSpikeCell",
    "HGCell",
    "IAFCell",
    "LIBox",
    "LIBoxCell",
    "LICell",
    "LIFAdEx",
    "LIFAdExCell",
    "LIFBox",
    "LIFBoxCell",
    "LIFCell",
    "LIFRecurrent",
    "LIFRecurrentCell",
    "OATCell",
    "SignGD",
    "SignGDCell",
    "SpikeloomCell",
    "SpikeloomSequence",
    "lif_box_feed_forward_step",
    "magnitude_accumulator",
    "make",
    "make_cell",
    "to_host",
    "to_nir",
]
