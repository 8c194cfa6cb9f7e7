"""A converted network is pickled, saved, moved and converted."""

import io
import pickle

import pytest
import torch
from torch import nn

from spikeloom.convert import SignGD
from spikeloom.neurons import Exponential


class Model(nn.Module):
    """Parameters that are read late, a list of operands, slices, and two inputs and outputs."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GELU())
        self.pool, self.norm = nn.MaxPool2d(2), nn.LayerNorm(36)
        self.register_buffer("table", torch.rand(36))

    def forward(self, x, y):
        h = self.norm(self.pool(self.layers(x)).flatten(1)) * self.table
        h = torch.cat([h[:, :6], y.reshape(y.shape[0], -1)], 1)
        return {"h": h.relu(), "y": (y,)}


def converted(**settings):
    torch.manual_seed(0)
    call = (torch.rand(8, 1, 8, 8), torch.rand(8, 2, 3))
    method = SignGD(8, Exponential(1.0, 0.8), margin=1.2, **settings)
    return method.apply(Model().eval(), [call]), call


@pytest.mark.parametrize("decompose", [False, True])
def test_a_pickled_network_computes_the_same(decompose):
    snn, call = converted(decompose=decompose)
    twin = pickle.loads(pickle.dumps(snn))
    with torch.no_grad():
        found, expected = twin(*call, at=[2, 8]), snn(*call, at=[2, 8])
    assert all(torch.equal(a["h"], b["h"]) for a, b in zip(found, expected, strict=True))
    assert str(twin.report) == str(snn.report)
    again = pickle.loads(pickle.dumps(twin))
    with torch.no_grad():
        assert torch.equal(again(*call)["h"], expected[1]["h"])


def test_a_saved_network_is_loaded_with_its_names():
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    x, file = torch.randn(16, 6), io.BytesIO()
    snn = SignGD(8, Exponential(1.0, 0.8), margin=1.2).apply(model, x)
    torch.save(snn, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    assert twin.state_dict().keys() == snn.state_dict().keys()
    assert [name for name, _ in twin.as_layers().named_modules()] == [
        name for name, _ in snn.as_layers().named_modules()
    ]


def test_a_network_converts_to_another_dtype():
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    x = torch.randn(16, 6)
    snn = SignGD(24).apply(model, x)
    with torch.no_grad():
        before = snn(x)
        wide = snn.double()(x.double())
    assert wide.dtype == torch.float64
    assert torch.allclose(wide.float(), before, atol=0.05)
    with pytest.raises(TypeError, match=r"inputs of torch.float64, got torch.float32"):
        snn(x)
    with torch.no_grad():
        assert snn.as_layers()(x.double().expand(24, 16, 6)).dtype == torch.float64
