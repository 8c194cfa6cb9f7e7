"""What a comparison proves, and what the report says where it proves nothing."""

import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, neurons
from spikeloom.export import from_nir, run_nir, to_nir
from tests.export.tracing.test_silent_samples import Net, fresh

SILENT = torch.zeros_like(fresh())


def test_layers_that_never_fire_are_named_first():
    net = Net()
    _, report = to_nir(net, SILENT)
    assert report.mismatch == 0
    assert report.notes[0].startswith("NO SPIKE on this sample from spike1, spike2: ")
    assert "proves nothing for these layers" in report.notes[0]
    net.fc2.weight.data *= 0
    _, report = to_nir(net, fresh().abs())
    assert report.notes[0].startswith("NO SPIKE on this sample from spike2: ")
    assert "proves nothing for this layer;" in report.notes[0]


def test_layers_that_fire_are_not():
    _, report = to_nir(Net(), fresh().abs())
    assert not any("NO SPIKE" in note for note in report.notes)


def test_an_imported_network_that_never_fires_is_said_to():
    network = from_nir(to_nir(Net(), fresh().abs())[0])
    _, report = to_nir(network, SILENT)
    assert report.notes[0].startswith("NO SPIKE on this sample from spike1, spike2: ")
    assert not any("NO SPIKE" in note for note in to_nir(network, fresh().abs())[1].notes)


def test_a_single_spike_is_enough():
    x = SILENT.clone()
    x[-1, 0, 0] = 9.0
    _, report = to_nir(nn.Sequential(SpikingLayer(neurons.LIF())), x)
    assert not any("NO SPIKE" in note for note in report.notes)


def test_a_model_that_looks_at_values_is_said_to():
    net = Net({1: lambda h: h * 2 if h.any() else h})
    _, report = to_nir(net, SILENT)
    assert any("looks at values while it runs" in note for note in report.notes)
    assert not any("looks at values" in note for note in to_nir(Net(), fresh())[1].notes)


def test_a_folder_is_no_file_to_write(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"path: .* folder"):
        to_nir(Net(), fresh(), path=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [1e-3, 2e-4])
def test_a_file_is_run_with_the_time_step_that_it_was_written_with(value, tmp_path):
    net, x = Net(), fresh().abs()
    graph, _ = to_nir(net, x, dt=value, path=tmp_path / "net.nir")
    from spikeloom.export import read

    again = read(tmp_path / "net.nir")
    for found in (graph, again):
        assert torch.equal(run_nir(found, x), net(x))
        assert torch.equal(from_nir(found)(x), net(x))
        assert from_nir(found).dt == value


def test_a_time_step_that_is_given_wins_over_the_metadata():
    net, x = Net(), fresh().abs()
    graph, _ = to_nir(net, x, dt=1e-3)
    assert not torch.equal(run_nir(graph, x, dt=1e-4), net(x))
    graph.metadata["dt"] = 1e-4
    assert torch.equal(run_nir(graph, x, 1e-3), net(x))


def test_without_metadata_the_time_step_is_a_tenth_of_a_millisecond():
    net, x = Net(), fresh().abs()
    graph, _ = to_nir(net, x)
    graph.metadata = {}
    assert from_nir(graph).dt == 1e-4
    assert torch.equal(run_nir(graph, x), net(x))


@pytest.mark.parametrize("value", ["fast", 0.0, -1e-4, float("nan"), True])
def test_metadata_without_a_sensible_time_step_are_named(value):
    graph, _ = to_nir(Net(), fresh())
    graph.metadata["dt"] = value
    with pytest.raises(ValueError, match=r"metadata\['dt'\]: must be a positive.*; pass dt"):
        from_nir(graph)
    assert from_nir(graph, dt=1e-4).dt == 1e-4


def test_an_imported_network_keeps_its_time_step_when_it_is_written_again():
    x = fresh().abs()
    network = from_nir(to_nir(Net(), x, dt=1e-3)[0])
    graph, report = to_nir(network, x)
    assert report.dt == graph.metadata["dt"] == 1e-3
    assert torch.equal(run_nir(graph, x), network(x))
