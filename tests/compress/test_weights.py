"""Weights that cannot be compressed in place are refused by name, before anything changes."""

import pytest
import torch
from spikingjelly.activation_based import layer as sjl
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as torch_prune

from spikeloom import SpikingLayer, compress, neurons
from tests.compress.cases import spikes

X = spikes(5, 8, 6)


def lif():
    return SpikingLayer(neurons.LIF())


def masked_by_torch():
    layer = nn.Linear(6, 5)
    torch_prune.l1_unstructured(layer, "weight", 0.3)
    return layer


@pytest.mark.parametrize(
    "layer",
    [parametrizations.weight_norm(nn.Linear(6, 5)), masked_by_torch()],
    ids=["parametrized", "masked by torch"],
)
def test_a_weight_that_is_computed_is_refused(layer):
    with pytest.raises(ValueError, match="weight of '0' is computed from other tensors"):
        compress.calibrate(nn.Sequential(layer, lif()).eval(), [X])


def test_a_weight_that_comes_to_be_computed_after_calibration_is_refused():
    model = nn.Sequential(nn.Linear(6, 5), lif()).eval()
    stats = compress.calibrate(model, [X])
    parametrize.register_parametrization(model[0], "weight", nn.Identity())
    with pytest.raises(ValueError, match="weight of '0' is computed from other tensors"):
        compress.prune(model, stats, 0.5)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.neuron = nn.Embedding(7, 6), lif()
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.neuron(self.embedding(x)))


def test_a_weight_that_is_an_embeddings_too_is_refused():
    with pytest.raises(ValueError, match="'head' and 'embedding' share one weight"):
        compress.calibrate(Tied().eval(), [torch.randint(0, 7, (5, 4))])


def test_a_layer_asked_for_may_not_share_its_weight_with_one_that_is_not():
    model = nn.Sequential(nn.Linear(6, 6), lif(), nn.Linear(6, 6)).eval()
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match="'0' and '2' share one weight"):
        compress.calibrate(model, [X], layers=["0"])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_is_refused(bad):
    model = nn.Sequential(nn.Linear(6, 5), lif(), nn.Linear(5, 3)).eval()
    model[2].weight.data[0, 0] = bad
    with pytest.raises(ValueError, match=r"weight of '2' must hold finite .* got NaN or infinity"):
        compress.calibrate(model, [X])


def test_a_layer_that_standardises_its_weight_is_refused():
    model = nn.Sequential(sjl.WSConv2d(2, 4, 3, step_mode="m"), lif()).eval()
    with pytest.raises(ValueError, match=r"'0': puts out something else .*WSConv2d"):
        compress.calibrate(model, [spikes(3, 2, 2, 6, 6)])


def test_a_layer_with_a_hook_that_scales_is_refused():
    model = nn.Sequential(nn.Linear(6, 5), lif()).eval()
    model[0].register_forward_hook(lambda layer, args, output: 2 * output)
    with pytest.raises(ValueError, match="'0': puts out something else"):
        compress.calibrate(model, [X])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_plain_layer_of_any_precision_passes(dtype):
    model = nn.Sequential(nn.Linear(6, 5), lif(), nn.Linear(5, 3)).eval().to(dtype)
    assert list(compress.calibrate(model, [X.to(dtype)])) == ["0", "2"]


def test_a_layer_that_is_not_called_is_named():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.neuron, self.out = nn.Linear(6, 5), lif(), nn.Linear(5, 3)

        def forward(self, x):
            return self.out(self.neuron(nn.functional.linear(x, self.fc.weight)))

    with pytest.warns(UserWarning, match="'fc' is not called in the forward pass"):
        stats = compress.calibrate(Functional().eval(), [X])
    assert list(stats) == ["out"]


def test_looking_at_a_layer_is_not_taken_for_a_threshold_of_the_one_in_front():
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), lif(), nn.Linear(4, 3)).eval()
    assert list(compress.calibrate(model, [X])) == ["0", "1", "3"]
