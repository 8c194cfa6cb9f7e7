"""NIR: write a trained network, read the same spikes elsewhere, and be told if that cannot be."""

import tempfile
from pathlib import Path

import torch
from torch import nn

from spikeloom import export
from spikeloom.plugins import snntorch as loom

currents = 2 * torch.rand(50, 4, 20)


def network(reset_mechanism):
    torch.manual_seed(0)
    how = {"reset_mechanism": reset_mechanism, "init_hidden": True, "time_first": True}
    return nn.Sequential(
        nn.Linear(20, 32), loom.Leaky(0.9, **how), nn.Linear(32, 10), loom.Leaky(0.9, **how)
    )


# A reset to zero is what NIR means by LIF: every reader fires the same spikes.
path = Path(tempfile.mkdtemp(), "network.nir")
net = network("zero")
graph, report = export.to_nir(net, currents, path=path)
print(report, "\n")
with torch.no_grad():
    assert torch.equal(export.run_nir(export.read(path), currents), net(currents))

# A reset by subtraction is not. The error names the layers, what a LIF would get wrong, a remedy.
try:
    export.to_nir(network("subtract"), currents)
except export.NotExpressible as refusal:
    print(refusal)
