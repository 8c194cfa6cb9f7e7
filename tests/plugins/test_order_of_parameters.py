"""Parameters and buffers stand in the framework's order, by which optimisers know them."""

import copy

import norse.torch as norse
import pytest
import snntorch
import torch
from spikingjelly.activation_based import neuron as spikingjelly
from torch import nn

from spikeloom.plugins import norse as our_norse
from spikeloom.plugins import snntorch as our_snntorch
from spikeloom.plugins import spikingjelly as our_spikingjelly

THRESHOLD = {"threshold": 0.75, "learn_threshold": True}
ALL = {**THRESHOLD, "beta": 0.8, "learn_beta": True}
# Of each class, arguments that make all learnable that can be learned.
SNNTORCH = {
    "Leaky": {**ALL, "learn_graded_spikes_factor": True},
    "Synaptic": {**ALL, "alpha": 0.9, "learn_alpha": True},
    # snnTorch's own cannot be made with learn_alpha.
    "Alpha": {**ALL, "alpha": 0.9},
    "Lapicque": {**THRESHOLD, "R": 1.0, "C": 2.0},
    "RLeaky": {**ALL, "linear_features": 4},
    "RLeaky one to one": {**ALL, "all_to_all": False, "V": 0.5},
}
SPIKINGJELLY = {
    "IFNode": {},
    "LIFNode": {},
    "ParametricLIFNode": {},
    "SimpleLIFNode": {"tau": 2.0, "decay_input": True},
    "QIFNode": {},
    "EIFNode": {},
    "IzhikevichNode": {},
    "KLIFNode": {},
    "CUBALIFNode": {},
    "LIAFNode": {"act": torch.tanh, "threshold_related": True},
}
NORSE = {
    "LIFRecurrent": {"input_size": 3, "hidden_size": 4},
    "LIFRecurrentCell": {"input_size": 3, "hidden_size": 4},
    **{f"{name}Cell": {} for name in ("LIF", "IAF", "LI", "LIFAdEx", "LIBox", "LIFBox")},
    **{name: {} for name in ("LIF", "IAF", "LI", "LIFAdEx")},
}
CASES = [
    *((our_snntorch, snntorch, name, settings) for name, settings in SNNTORCH.items()),
    *((our_spikingjelly, spikingjelly, name, settings) for name, settings in SPIKINGJELLY.items()),
    *((our_norse, norse, name, settings) for name, settings in NORSE.items()),
]


def pair(ours, theirs, name, settings):
    return [getattr(home, name.split()[0])(**settings) for home in (ours, theirs)]


def names(found):
    return [name for name, _ in found]


@pytest.mark.parametrize("case", CASES, ids=[f"{case[1].__name__}.{case[2]}" for case in CASES])
def test_parameters_and_buffers_stand_in_the_frameworks_order(case):
    ours, theirs = pair(*case)
    assert names(ours.named_parameters()) == names(theirs.named_parameters())
    # snnTorch's states are buffers too, which are not saved.
    kept = ours.state_dict().keys()
    assert list(kept) == [name for name in theirs.state_dict() if name in kept]


def test_all_of_snntorchs_learnable_parameters_are_among_those_compared():
    learned = {
        name: names(getattr(our_snntorch, name.split()[0])(**settings).named_parameters())
        for name, settings in SNNTORCH.items()
    }
    assert learned["Leaky"] == ["threshold", "graded_spikes_factor", "beta"]
    assert learned["Synaptic"] == ["threshold", "beta", "alpha"]
    assert learned["RLeaky one to one"][:2] == ["threshold", "beta"]


def net(home):
    torch.manual_seed(1)
    settings = {**SNNTORCH["Synaptic"], "init_hidden": True}
    return nn.Sequential(nn.Linear(4, 6), home.Synaptic(**settings))


def train(model, optimizer, steps):
    x = torch.rand(8, 5, 4, generator=torch.Generator().manual_seed(0)) * 2
    for _ in range(steps):
        model[1].reset_mem()
        rate = sum(model(now) for now in x)
        optimizer.zero_grad()
        (rate - 3).square().mean().backward()
        optimizer.step()


def test_adam_goes_on_where_it_was_with_snntorchs_own():
    theirs = net(snntorch)
    adam = torch.optim.Adam(theirs.parameters(), 1e-2)
    train(theirs, adam, 10)
    found = []
    for home in (our_snntorch, snntorch):
        model = net(home)
        model.load_state_dict(theirs.state_dict())
        carried = torch.optim.Adam(model.parameters(), 1e-2)
        carried.load_state_dict(copy.deepcopy(adam.state_dict()))
        train(model, carried, 1)
        found.append(dict(model.named_parameters()))
    ours, expected = found
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6, msg=name)
        assert not torch.equal(value, theirs.get_parameter(name))
