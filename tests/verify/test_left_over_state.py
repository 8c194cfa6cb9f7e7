"""A neuron of an unknown class that keeps its state from its last call: no proof begins there."""

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import neurons
from spikeloom.modules import Conventions, register
from spikeloom.verify import check_mfi, count_energy


class Keeps(nn.Module):
    """Keeps its state, which ``forget`` resets."""

    def __init__(self, state=None):
        super().__init__()
        self.neuron, self.state = neurons.LIF(decay_input=False), state

    def forward(self, x):
        y, self.state = spikeloom.run(self.neuron, x, self.state)
        return y

    def forget(self):
        self.state = None


class KeepsAndSays(Keeps):
    """The same, with conventions."""


register(KeepsAndSays, Conventions(reset="forget", keeps_state=lambda module: True))


class Begins(Keeps):
    """Begins every call from what it has as a buffer, or learns."""

    def __init__(self, start):
        super().__init__()
        self.start = start

    def forward(self, x):
        return spikeloom.run(self.neuron, x, (self.start.expand(x.shape[1:]),))[0]


def net(spike):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), spike, nn.Linear(4, 2)).eval()


def sample():
    return 3 * torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("check", [check_mfi, count_energy])
def test_a_state_that_cannot_be_reset_is_refused_by_its_module(check):
    model = net(Keeps())
    fresh = str(check(model, sample()))
    with torch.no_grad():
        model(sample())
    with pytest.raises(ValueError, match=r"'1' \(Keeps\) begins from .*register\(Keeps, Conv"):
        check(model, sample())
    model[1].forget()
    assert str(check(model, sample())) == fresh


@pytest.mark.parametrize("check", [check_mfi, count_energy])
def test_a_state_is_reset_by_the_method_that_is_stated(check):
    model = net(KeepsAndSays())
    fresh = str(check(model, sample()))
    with torch.no_grad():
        model(sample())
    assert str(check(model, sample())) == fresh


@pytest.mark.parametrize("check", [check_mfi, count_energy])
@pytest.mark.parametrize("kind", [nn.Buffer, nn.Parameter])
def test_a_start_that_belongs_to_the_model_is_no_earlier_state(check, kind):
    found = check(net(Begins(kind(torch.full((4,), 0.5)))), sample())
    assert getattr(found, "ok", True)
