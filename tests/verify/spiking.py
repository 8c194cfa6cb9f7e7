"""A small spiking network whose forward a test writes."""

import torch
from torch import nn

import spikeloom
from spikeloom import neurons
from spikeloom.verify import check_mfi


class Net(nn.Module):
    """A stem, spikes, and what a test makes of them."""

    def __init__(self, then) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.spike = nn.Linear(4, 8), lif()
        self.hidden, self.last, self.then = nn.Linear(8, 8), nn.Linear(8, 8), then

    def forward(self, x):
        return self.then(self, self.spike(self.stem(x)))


def lif() -> spikeloom.SpikingLayer:
    return spikeloom.SpikingLayer(neurons.LIF(v_threshold=0.5))


def currents(*shape: int) -> torch.Tensor:
    return 3 * torch.rand(*(shape or (5, 2, 4)), generator=torch.Generator().manual_seed(2))


def proof(then):
    return check_mfi(Net(then).eval(), currents())
