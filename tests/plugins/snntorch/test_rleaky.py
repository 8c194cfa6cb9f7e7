"""RLeaky beside snnTorch's own."""

import copy

import pytest
import snntorch as snn
import torch
from snntorch import surrogate

from spikeloom.kernel import feedback
from spikeloom.plugins import snntorch

MECHANISMS = ("subtract", "zero", "none")
N = 6
CONNECTED = {
    "all to all": {"linear_features": N},
    "one to one, shared": {"all_to_all": False, "V": 0.75},
    "one to one": {"all_to_all": False, "V": torch.linspace(-1.0, 1.0, N)},
}
every_connection = pytest.mark.parametrize("connected", CONNECTED.values(), ids=CONNECTED)


def drive(*shape, seed=0, scale=1.5):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def pair(connected, beta=0.75, **settings):
    """snnTorch's neuron and ours with the same weights."""
    torch.manual_seed(0)
    host = snn.RLeaky(beta=beta, **copy.deepcopy(connected), **settings)
    ours = snntorch.RLeaky(beta=beta, **copy.deepcopy(connected), **settings)
    ours.load_state_dict(host.state_dict())
    return host, ours


def host_loop(lif, x):
    """snnTorch's own neuron, step after step: spikes and potentials ``[T, ...]``."""
    spk = mem = torch.zeros_like(x[0])
    spk_rec, mem_rec = [], []
    for step in x:
        spk, mem = lif(step, spk, mem)
        spk_rec.append(spk)
        mem_rec.append(mem)
    return torch.stack(spk_rec), torch.stack(mem_rec)


def equal(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@every_connection
@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("reset_mechanism", MECHANISMS)
def test_spikes_and_mem_equal_the_host_to_the_bit(connected, reset_mechanism, reset_delay):
    host, ours = pair(connected, reset_mechanism=reset_mechanism, reset_delay=reset_delay)
    x = drive(100, 3, N)
    spk_rec, mem_rec = host_loop(host, x)
    assert 0.01 < spk_rec.mean() < 0.99
    spk, mem = ours.sequence(x)
    equal(spk, spk_rec)
    equal(mem, mem_rec[-1])
    equal(ours.sequence(x, record=True)[2], mem_rec)


@every_connection
def test_steps_equal_the_host(connected):
    host, ours = pair(connected)
    x = drive(30, 3, N)
    spk_rec, mem_rec = host_loop(host, x)
    spk, mem = ours.reset_mem()
    for t, step in enumerate(x):
        spk, mem = ours(step, spk, mem)
        equal(spk, spk_rec[t])
        equal(mem, mem_rec[t])


@every_connection
def test_a_step_without_states_goes_on_and_a_hidden_neuron_returns_spikes(connected):
    x = drive(30, 3, N)
    host, ours = pair(connected)
    spk_rec, _ = host_loop(host, x)
    equal(torch.stack([ours(step)[0] for step in x]), spk_rec)
    _, hidden = pair(connected, init_hidden=True)
    equal(torch.stack([hidden(step) for step in x]), spk_rec)
    equal(hidden.spk, spk_rec[-1])


@every_connection
@pytest.mark.parametrize("over_time", [True, False])
def test_gradients_equal_the_host(connected, over_time):
    settings = {"learn_beta": True, "learn_threshold": True}
    settings["spike_grad"] = surrogate.fast_sigmoid()
    host, ours = pair(connected, **settings)
    x, weight = drive(20, 3, N), drive(20, 3, N, seed=1)
    found = []
    for module, run in ((host, host_loop), (ours, sequence if over_time else host_loop)):
        leaf = x.clone().requires_grad_()
        spk, mem = run(module, leaf)
        loss = (spk * weight).sum() + mem.sum()
        found.append(torch.autograd.grad(loss, (leaf, *learned(module))))
    assert len(found[0]) == len(found[1])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def learned(module):
    """Its parameters in an order that does not depend on how it is made."""
    return [parameter for _, parameter in sorted(module.named_parameters())]


def sequence(module, x):
    spk, _, mem_rec = module.sequence(x, record=True)
    return spk, mem_rec


def test_gradients_of_the_loop_equal_the_host(monkeypatch):
    monkeypatch.setattr(feedback, "WORTH_EVENTS", 0)
    host, ours = pair_of(CONNECTED["all to all"], events_up_to=1.0)
    x, found = drive(20, 3, N), []
    for module, run in ((host, host_loop), (ours, type(ours).sequence)):
        leaf = x.clone().requires_grad_()
        spk = run(module, leaf)[0]
        found.append((spk, *torch.autograd.grad(spk.sum(), (leaf, *learned(module)))))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def pair_of(settings, **own):
    torch.manual_seed(0)
    host = snn.RLeaky(beta=0.75, **settings)
    ours = snntorch.RLeaky(beta=0.75, **settings, **own)
    ours.load_state_dict(host.state_dict())
    return host, ours


def test_convolutions_equal_the_host():
    host, ours = pair_of({"conv2d_channels": 2, "kernel_size": 3})
    x = drive(10, 3, 2, 5, 5)
    spk_rec, mem_rec = host_loop(host, x)
    spk, mem = ours.sequence(x)
    equal(spk, spk_rec)
    equal(mem, mem_rec[-1])


@every_connection
@pytest.mark.parametrize("learn_recurrent", [True, False])
def test_the_state_dict_and_what_is_learned_are_the_hosts(connected, learn_recurrent):
    host, ours = pair(connected, learn_recurrent=learn_recurrent)
    assert ours.state_dict().keys() == host.state_dict().keys()
    learned = [{name for name, _ in m.named_parameters() if _.requires_grad} for m in (ours, host)]
    assert learned[0] == learned[1]
    host.load_state_dict(ours.state_dict())


def test_a_loaded_mechanism_takes_effect():
    _, ours = pair(CONNECTED["all to all"])
    host, zero = pair(CONNECTED["all to all"], reset_mechanism="zero")
    ours.load_state_dict(zero.state_dict())
    x = drive(50, 3, N)
    equal(ours.sequence(x)[0], host_loop(host, x)[0])


def test_a_copy_and_a_network_in_time_first_form_compute_the_same():
    _, ours = pair(CONNECTED["all to all"], init_hidden=True)
    x = drive(20, 3, N)
    expected = ours.sequence(x)
    other = copy.deepcopy(ours)
    other.reset_mem()
    other.time_first = True
    equal(torch.nn.Sequential(other)(x), expected)


REFUSED = {
    "nothing said": ({}, TypeError, "linear_features"),
    "both": ({"linear_features": 3, "kernel_size": 3}, TypeError, "kernel_size"),
    "half a convolution": ({"kernel_size": 3}, TypeError, "conv2d_channels"),
    "features one to one": ({"all_to_all": False, "linear_features": 3}, TypeError, "V"),
    "inhibition": ({"linear_features": 3, "inhibition": True}, ValueError, "inhibition"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_by_name(name):
    settings, kind, said = REFUSED[name]
    with pytest.raises(kind, match=said):
        snntorch.RLeaky(0.9, **settings)


@every_connection
@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("reset_mechanism", MECHANISMS)
def test_it_goes_to_snntorchs_own(connected, reset_mechanism, reset_delay):
    _, ours = pair(connected, reset_mechanism=reset_mechanism, reset_delay=reset_delay)
    native = snntorch.to_host(ours)
    assert type(native) is snn.RLeaky
    x = drive(100, 3, N)
    equal(ours.sequence(x)[0], host_loop(native, x)[0])
    assert native.state_dict().keys() == ours.state_dict().keys()
    learned = [{n for n, p in m.named_parameters() if p.requires_grad} for m in (ours, native)]
    assert learned[0] == learned[1]
