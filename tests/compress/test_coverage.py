"""What a report says of the weights that were left out."""

import pytest
import snntorch
import torch
from torch import nn

from spikeloom import SpikingLayer, compress, neurons
from spikeloom.compress.coverage import weights_of
from tests.compress.cases import spikes

X = spikes(4, 6, 8)


class Mixed(nn.Module):
    """Three layers that are compressed, and weights of all kinds that are not."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 6, 8) / 8)
        self.first, self.neuron = nn.Linear(8, 4), SpikingLayer(neurons.LIF(tau=4.0))
        self.norm = nn.LayerNorm((6, 4))
        self.pair = nn.Bilinear(4, 4, 3)
        self.last = nn.Linear(3, 2)
        self.unused = nn.Linear(5, 2)

    def forward(self, x):
        s = self.norm(self.neuron(self.first(x + self.position)))
        return self.last(self.pair(s, s))


NOTES = {
    "Left out (Mixed of tests is not a layer that can be compressed): position, 48 weights",
    "Left out (Bilinear is not a layer that can be compressed): pair.weight, 48 weights",
    "Left out (not called in the forward pass): unused.weight, 10 weights",
}


def calibrated(**options):
    torch.manual_seed(0)
    model = Mixed().eval()
    return model, compress.calibrate(model, [X], **options)


@pytest.mark.filterwarnings("ignore:calibrate. 'unused' is not called")
def test_weights_that_are_left_out_are_named_with_the_reason_and_count():
    model, stats = calibrated()
    report = compress.prune(model, stats, 0.5)
    assert report.notes[:2] == [
        "19 of 144 weights removed, 13.19%",
        "19 of 38 weights in these layers, 50.00%",
    ]
    assert set(report.notes[2:]) == NOTES
    assert sum(weight.numel() for weight in weights_of(model).values()) == 144
    assert set(compress.quantize(model, stats, 4).notes) == NOTES


@pytest.mark.filterwarnings("ignore:calibrate. 'unused' is not called")
def test_statistics_tell_what_they_leave_out_from_a_file_too(tmp_path):
    model, stats = calibrated()
    stats.save(tmp_path / "stats.safetensors")
    loaded = compress.Statistics.load(tmp_path / "stats.safetensors")
    assert loaded.left_out == stats.left_out and len(stats.left_out) == 3
    assert "Left out (not called in the forward pass): unused.weight" in str(loaded)
    assert set(compress.prune(model, loaded, 0.5).notes[2:]) == NOTES


def test_layers_that_were_not_asked_for_are_left_out():
    model, stats = calibrated(layers=["first", "last"])
    report = compress.prune(model, stats, 0.5, layers=["last"])
    assert report.notes == [
        "3 of 144 weights removed, 2.08%",
        "3 of 6 weights in these layers, 50.00%",
        "Left out (Mixed of tests is not a layer that can be compressed): position, 48 weights",
        "Left out (not among the layers asked for): first.weight, unused.weight, 42 weights",
        "Left out (Bilinear is not a layer that can be compressed): pair.weight, 48 weights",
    ]
    # What an earlier call removed is gone from the network too.
    report = compress.prune(model, stats, 0.5, layers=["first"])
    assert report.notes[0] == "19 of 144 weights removed, 13.19%"


@pytest.mark.filterwarnings("ignore:calibrate. the weight of 'cell.recurrent' belongs to a neuron")
def test_recurrent_weights_of_a_neuron_are_left_out():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(8, 4)
            self.cell = snntorch.RLeaky(beta=0.9, linear_features=4, init_hidden=False)

        def forward(self, x):
            spike, mem = self.cell.init_rleaky()
            for step in x:
                spike, mem = self.cell(self.first(step), spike, mem)
            return spike

    model = Loop().eval()
    stats = compress.calibrate(model, [X], traces={"cell": neurons.Trace(0.9)})
    report = compress.prune(model, stats, 0.5)
    assert report.notes[-1] == "Left out (part of a neuron): cell.recurrent.weight, 16 weights"


def test_a_layer_added_after_calibration_is_named():
    model, stats = calibrated(layers=["first"])
    model.more = nn.Linear(2, 2)
    note = compress.prune(model, stats, 0.5).notes[-1]
    assert note == "Left out (not there when the model was calibrated): more.weight, 4 weights"


def test_nothing_is_said_where_nothing_is_left_out():
    model = nn.Sequential(nn.Linear(8, 4), SpikingLayer(neurons.LIF()), nn.Linear(4, 2)).eval()
    nn.init.ones_(model[0].weight)  # so that it fires
    stats = compress.calibrate(model, [X])
    assert compress.prune(model, stats, 0.5).notes == ["20 of 40 weights removed, 50.00%"]
    assert not stats.left_out and compress.quantize(model, stats, 4).notes == []


def test_a_model_without_a_layer_that_can_be_compressed_is_refused():
    named = r"was called; left out are 0.weight \(Embedding is not a layer that can be compressed\)"
    with pytest.raises(ValueError, match=rf"no Linear, Conv1d/2d/3d, .* module {named}"):
        compress.calibrate(nn.Sequential(nn.Embedding(8, 4)).eval(), [X.long()])
