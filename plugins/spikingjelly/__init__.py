"""spikeloom's neurons as SpikingJelly 2.0 neurons.

Every class here is a ``spikingjelly.activation_based.neuron.BaseNode``: step modes, ``reset_net``,
monitors, counters and memory optimisation treat it as one of SpikingJelly's own.

>>> import torch
>>> from torch import nn
>>> from spikingjelly.activation_based import functional
>>> from spikeloom.plugins import spikingjelly as loom
>>> net = nn.Sequential(nn.Linear(8, 4), loom.LIFNode(tau=2.0))
>>> functional.set_step_mode(net, "m")
>>> net(torch.rand(16, 2, 8)).shape
torch.Size([16, 2, 4])
>>> functional.reset_net(net)
"""

from .host import require_host

require_host()

# ruff: noqa: E402 -- a missing host must be named before anything imports it
from .alif import ALIFNode
from .compressor import SignedSpikeCompressor
from .counting import signed_rules
from .cuba_lif import CUBALIFNode
from .elastic import ElasticBiSpikeNode
from .export import export_to_nir
from .few_spike import HGNode, OATNode, few_spike_tables
from .izhikevich import IzhikevichNode
from .klif import KLIFNode
from .las import LASRecipe
from .liaf import LIAFNode
from .lif import IFNode, LIFNode, SimpleLIFNode
from .native import to_host
from .node import SpikeloomNode, make
from .nonlinear import EIFNode, QIFNode
from .parametric_lif import ParametricLIFNode
from .recurrent import LinearRecurrentContainer
from .signgd import SignGDNode, SignGDRecipe, SteppedSignGD

__all__ = [
    "ALIFNode",
    "CUBALIFNode",
    "EIFNode",
    "ElasticBiSpikeNode",
    "HGNode",
    "IFNode",
    "IzhikevichNode",
    "KLIFNode",
    "LASRecipe",
    "LIAFNode",
    "LIFNode",
    "LinearRecurrentContainer",
    "OATNode",
    "ParametricLIFNode",
    "QIFNode",
    "SignGDNode",
    "SignGDRecipe",
    "SignedSpikeCompressor",
    "SimpleLIFNode",
    "SpikeloomNode",
    "SteppedSignGD",
    "export_to_nir",
    "few_spike_tables",
    "make",
    "signed_rules",
    "to_host",
]
