"""The few-spike neurons in snnTorch and Norse are the neurons themselves."""

import pytest
import torch

import spikeloom
from spikeloom import neurons
from spikeloom.plugins import components

TABLES = [neurons.FewSpike([r, r / 2, r / 4], [r, r / 2, r / 4], [r, 1.0, 0.5]) for r in (1.0, 8.0)]
NEURONS = {
    "OAT": ((5, 1.0, 8.0), {"tie": "ge", "rounding": "nearest"}),
    "HG": (([2.0], TABLES), {"constants": [0.0, 3.0]}),
}


@pytest.fixture(params=NEURONS)
def described(request):
    arguments, settings = NEURONS[request.param]
    torch.manual_seed(0)
    x = torch.randn(3, 40) * 4
    spikes, _ = spikeloom.run(getattr(neurons, request.param)(*arguments, **settings), x)
    return request.param, arguments, settings, x, spikes


def test_in_snntorch(described):
    snntorch = pytest.importorskip("spikeloom.plugins.snntorch")
    name, arguments, settings, x, spikes = described
    module = getattr(snntorch, name)(*arguments, **settings)
    assert torch.equal(module(x)[0], spikes)
    hidden = getattr(snntorch, name)(*arguments, **settings, init_hidden=True)
    assert torch.equal(hidden(x), spikes)
    assert torch.equal(hidden(x), spikes)


def test_in_norse(described):
    norse = pytest.importorskip("spikeloom.plugins.norse")
    name, arguments, settings, x, spikes = described
    sequence = getattr(norse, name)(*arguments, **settings)
    cell = getattr(norse, f"{name}Cell")(*arguments, **settings)
    assert torch.equal(sequence(x)[0], spikes)
    assert torch.equal(cell(x.sum(0))[0], spikes)


@pytest.mark.parametrize(
    "host, names", [("snntorch", ["HG", "OAT"]), ("norse", ["HG", "HGCell", "OAT", "OATCell"])]
)
def test_they_are_listed(host, names):
    pytest.importorskip(host)
    listed = {c.name for c in components() if c.host == host and c.method == "few-spike conversion"}
    assert listed == set(names)
