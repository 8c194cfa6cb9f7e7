"""to_host: snnTorch's own neurons in the place of ours, and its exporter on the result."""

import contextlib
import io

import pytest
import snntorch
import torch
from snntorch import surrogate, utils
from snntorch.export_nir import export_to_nir
from snntorch.functional import quant
from torch import nn

from spikeloom import neurons
from spikeloom.modules import neuron_of
from spikeloom.neurons.surrogate import Erf, FastSigmoid
from spikeloom.plugins import NoCounterpart
from spikeloom.plugins import snntorch as loom
from spikeloom.plugins.contract import same, weight
from spikeloom.plugins.snntorch.surrogate import host_form, recognise
from tests.export.readers import with_snntorch
from tests.ids import without_address
from tests.plugins.exchange import sample, weighted

GRADIENTS = [
    surrogate.atan(3.0),
    surrogate.fast_sigmoid(10),
    surrogate.sigmoid(5),
    surrogate.straight_through_estimator(),
    surrogate.heaviside(),
    surrogate.triangular(0.5),
    surrogate.spike_rate_escape(2, 10),
    surrogate.SFS(10, 0.5),
]


def over_time(neuron, x):
    mem, spikes, potentials = None, [], []
    for now in x:
        spk, mem = neuron(now, mem)
        spikes.append(spk)
        potentials.append(mem)
    return torch.stack(spikes), torch.stack(potentials)


def trained(neuron, x):
    x = x.clone().requires_grad_()
    spk, mem = over_time(neuron, x)
    ((spk + mem) * weight(spk)).sum().backward()
    return (spk.detach(), mem.detach()), [x.grad, *(p.grad for p in neuron.parameters())]


@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("mechanism", ["subtract", "zero", "none"])
@pytest.mark.parametrize("grad", GRADIENTS, ids=lambda grad: grad.__qualname__.split(".")[0])
def test_spikes_potentials_and_gradients_are_those_of_the_neuron_replaced(grad, mechanism, delay):
    neuron = loom.Leaky(
        torch.full((5,), 0.7),
        0.8,
        grad,
        learn_beta=True,
        learn_threshold=True,
        graded_spikes_factor=1.5,
        learn_graded_spikes_factor=True,
        reset_mechanism=mechanism,
        reset_delay=delay,
    )
    native = loom.to_host(neuron)
    assert type(native) is snntorch.Leaky
    x = torch.randn(20, 3, 5) + 0.3
    (found, grads), (expected, references) = trained(native, x), trained(neuron, x)
    assert expected[0].any()
    same(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=1e-6)
    names = [name for name, _ in neuron.named_parameters()]
    theirs = dict(zip([name for name, _ in native.named_parameters()], grads[1:], strict=True))
    torch.testing.assert_close(grads[0], references[0], rtol=1e-4, atol=1e-4)
    for name, reference in zip(names, references[1:], strict=True):
        torch.testing.assert_close(theirs[name], reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grad", GRADIENTS, ids=lambda grad: grad.__qualname__.split(".")[0])
def test_a_surrogate_travels_there_and_back(grad):
    assert recognise(host_form(recognise(grad))) == recognise(grad)


@pytest.mark.parametrize(
    "settings",
    [
        {"init_hidden": True},
        {"init_hidden": True, "output": True},
        {"surrogate_disable": True},
        {"spike_grad": surrogate.SSO()},
        {"spike_grad": FastSigmoid(7.0)},
        {"state_quant": quant.state_quant(num_bits=3, lower_limit=-2, upper_limit=2)},
    ],
    ids=without_address,
)
def test_all_settings_are_carried_over(settings):
    neuron = loom.Leaky(0.5, **settings)
    native = loom.to_host(neuron)
    for name in ("init_hidden", "output", "surrogate_disable", "spike_grad", "state_quant"):
        given = settings.get(name, False)
        if not isinstance(given, FastSigmoid) and (given or name not in ("spike_grad",)):
            assert getattr(native, name) == given
    assert {k: float(v) for k, v in native.state_dict().items()} == {
        k: float(v) for k, v in neuron.state_dict().items()
    }


def test_a_plain_description_is_replaced_too():
    native = loom.to_host(loom.make(neurons.Leaky(0.9, reset_mechanism="zero"), init_hidden=True))
    assert native.beta == torch.tensor(0.9) and native.reset_mechanism == "zero"


def test_the_exporter_describes_the_native_neuron_as_the_one_replaced():
    neuron = loom.Leaky(0.9, 0.8, reset_mechanism="none", reset_delay=False)
    found, expected = neuron_of(loom.to_host(neuron)).settings(), neuron.neuron.settings()
    assert found.pop("surrogate") == expected.pop("surrogate")
    assert found == expected


def test_a_learned_decay_goes_on_learning_and_stays_tied():
    first, second = loom.Leaky(0.5, learn_beta=True), loom.Leaky(0.5, learn_beta=True)
    second.beta = first.beta
    with torch.no_grad():
        first.beta.fill_(0.7)
    net = loom.to_host(nn.ModuleList([first, second]))
    assert net[0].beta is net[1].beta and net[0].beta is not first.beta
    assert isinstance(net[0].beta, nn.Parameter) and net[0].beta.item() == first.beta.item()


@pytest.mark.parametrize(
    ("neuron", "reason"),
    [
        (loom.Leaky(0.5, time_first=True), "takes sequences"),
        (loom.Leaky(0.5, spike_grad=Erf()), "no surrogate gradient Erf"),
        (loom.make(neurons.LIF()), "has no LIF"),
        (loom.make(neurons.LIFBox()), "has no LIFBox"),
        (loom.ElasticBiSpike(1.0), "has no ElasticBiSpike"),
        (loom.OAT(), "has no OAT"),
        (loom.SignGD(), "has no SignGD"),
    ],
)
def test_what_snntorch_has_not_is_refused(neuron, reason):
    with pytest.raises(NoCounterpart) as caught:
        loom.to_host(nn.Sequential(nn.Linear(2, 4), neuron))
    (found,) = caught.value.neurons
    assert found.module == "1" and reason in found.reason


def vector_net():
    """snnTorch's exporter takes one beta and one threshold for each neuron only."""

    def leaky(size, beta):
        vectors = torch.full((size,), beta), torch.ones(size)
        return loom.Leaky(*vectors, reset_mechanism="zero", init_hidden=True)

    return nn.Sequential(nn.Linear(6, 12), leaky(12, 0.5), nn.Linear(12, 4), leaky(4, 0.75))


@pytest.mark.readers
@pytest.mark.parametrize("grid", [False, True], ids=["float", "grid"])
def test_snntorch_exports_and_reads_the_same_spikes(grid):
    net, x = weighted(vector_net(), grid), sample(4, 6, grid=grid)
    native = loom.to_host(net, x[0])
    with torch.no_grad():
        spikes = torch.stack([net(now) for now in x])
    assert 0.02 < spikes.mean() < 0.98
    with contextlib.redirect_stdout(io.StringIO()):
        graph = export_to_nir(native, x[0, 0])
    assert torch.equal(with_snntorch(graph, x), spikes)


def test_the_copy_is_at_rest_and_obeys_the_host():
    net, x = weighted(vector_net(), True), sample(4, 6, grid=True)
    with torch.no_grad():
        spikes = torch.stack([net(now) for now in x])
        native = loom.to_host(net)
        assert torch.equal(torch.stack([native(now) for now in x]), spikes)
        utils.reset(native)
        assert torch.equal(torch.stack([native(now) for now in x]), spikes)


def test_hidden_and_passed_states_may_be_compared_on_a_sample():
    x = torch.randn(9, 4, 6)

    class Explicit(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 3), loom.Leaky(0.5)

        def forward(self, x):
            mem = self.lif.reset_mem()
            spikes = []
            for now in x:
                spk, mem = self.lif(self.fc(now), mem)
                spikes.append(spk)
            return torch.stack(spikes), mem

    net = weighted(Explicit(), False)
    native = loom.to_host(net, x)
    with torch.no_grad():
        assert torch.equal(native(x)[0], net(x)[0])
    assert loom.to_host(loom.Leaky(0.5), x[0])
