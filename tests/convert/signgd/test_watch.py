"""Values beyond a node's reach are counted when the network runs, and warned of once."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom.convert import SignGD
from spikeloom.neurons import Exponential

QUICK = Exponential(1.0, 0.8)


class Shifted(nn.Module):
    """An activation of the sum of two inputs, neither of which is large."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, x, y):
        return torch.nn.functional.gelu(self.layer(x) + 4.0 * y)


def converted(**settings):
    torch.manual_seed(0)
    x, y = torch.rand(64, 4), torch.rand(64, 6) * torch.eye(64, 6)
    model = Shifted().eval()
    return SignGD(12, QUICK, margin=1.2, **settings).apply(model, [(x, y)]), x


def share_beyond(snn, *inputs):
    """Of the values of the only node, by hand."""
    (site,) = snn.plan.sites
    reach = torch.as_tensor(snn.scales[site.name]) * (QUICK.reach(12) + QUICK.at(12))
    model = Shifted()
    model.layer.weight, model.layer.bias = (
        nn.Parameter(snn.operators.state_dict()[f"layer.{name}"]) for name in ("weight", "bias")
    )
    return float((model(*inputs).abs() > reach).float().mean())


@torch.no_grad()
@pytest.mark.parametrize("make", [None, spikeloom.SpikingLayer])
def test_values_beyond_reach_are_counted_and_warned_of_once_with_node_and_rate(make):
    snn, x = converted(make=make)
    assert snn.report.column("beyond") == [None]
    y = torch.ones(64, 6)  # each within what calibration showed, together far beyond
    share = share_beyond(snn, x, y)
    assert 0.5 < share < 1
    with pytest.warns(UserWarning, match=f"{share:.1%} of the values of gelu at the forward") as w:
        snn(x, y)
    assert len(w) == 1
    assert "Convert again with calibration batches like these inputs" in str(w[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snn(x, y)
        snn(x, 0 * y)
    rates = [share, share, share_beyond(snn, x, 0 * y)]
    assert snn.report.column("beyond") == pytest.approx([sum(rates) / 3])
    assert "beyond" in str(snn.report)


@torch.no_grad()
def test_inputs_like_those_of_calibration_do_not_warn_and_are_counted_too():
    snn, x = converted()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snn(x, torch.zeros(64, 6))
    assert snn.report.column("beyond") == [0.0]


@torch.no_grad()
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda snn: pickle.loads(pickle.dumps(snn))])
def test_copies_count_on_their_own(copied):
    snn, x = converted()
    snn(x, torch.zeros(64, 6))
    twin = copied(snn)
    with pytest.warns(UserWarning, match="lie beyond"):
        twin(x, torch.ones(64, 6))
    assert snn.report.column("beyond") == [0.0] < twin.report.column("beyond")


def test_counts_are_no_part_of_what_is_saved():
    snn, _ = converted()
    assert not [name for name in snn.state_dict() if "watch" in name]


# --- Compiled and exported ----------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 8), nn.GELU()
    )
    x = torch.randn(16, 1, 8, 8)
    return SignGD(8, QUICK, margin=1.2).apply(model, x), x


@torch.no_grad()
def test_a_conversion_compiles_as_one_graph_and_counts():
    snn, x = network()
    expected = snn(x)
    snn.watch.forget()
    found = torch.compile(snn, fullgraph=True, backend="aot_eager")(x)
    assert torch.allclose(found, expected, atol=1e-6)
    assert snn.watch.values.tolist() == [16 * 3 * 9, 16 * 8]


@torch.no_grad()
def test_a_conversion_is_exported_for_any_batch_and_counts():
    snn, x = network()
    expected = snn(x[:5])
    snn.watch.forget()
    shapes = {"args": ({0: torch.export.Dim.DYNAMIC},)}
    module = torch.export.export(snn, (x,), dynamic_shapes=shapes).module()
    assert torch.allclose(module(x[:5]), expected, atol=1e-6)
    (counts,) = [buffer for name, buffer in module.named_buffers() if "watch.values" in name]
    assert counts.tolist() == [5 * 3 * 9, 5 * 8]


@torch.no_grad()
def test_a_compiled_conversion_does_not_take_nan_for_a_number():
    snn, x = network()
    x[3] = torch.nan
    compiled = torch.compile(snn, fullgraph=True, backend="aot_eager")
    try:
        found = compiled(x)
    except ValueError as error:
        assert "NaN" in str(error)
    else:
        assert found[3].isnan().all() and not found[:3].isnan().any()
