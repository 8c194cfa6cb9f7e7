import copy

import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, compress, neurons
from tests.compress.cases import spikes


def share_of_zeros(net):
    return float((net[0].weight == 0).float().mean())


@pytest.fixture
def network():
    return nn.Sequential(nn.Linear(8, 5), SpikingLayer(neurons.LIF())).eval()


def test_every_method_is_scored_at_every_sparsity(network, tmp_path):
    stats, before = compress.calibrate(network, [spikes(5, 9, 8)]), copy.deepcopy(network)
    report = compress.sweep_sparsity(network, stats, share_of_zeros, (0.25, 0.5))
    assert report.rows == [
        (method, sparsity, sparsity)
        for method in ("osbc", "obs", "magnitude")
        for sparsity in (0.25, 0.5)
    ]
    assert torch.equal(network[0].weight, before[0].weight)
    axes = report.plot(path=tmp_path / "curve.png").axes[0]
    assert [line.get_label() for line in axes.lines] == ["osbc", "obs", "magnitude"]
    assert axes.lines[0].get_xdata().tolist() == [0.25, 0.5]
    assert (tmp_path / "curve.png").stat().st_size


def test_every_method_is_scored_at_every_width(network):
    stats = compress.calibrate(network, [spikes(5, 9, 8)])

    def distinct_codes(net):
        return len(net[0].weight_codes.unique())

    report = compress.sweep_bits(network, stats, distinct_codes, (8, 2), ("rtn", "osbc"))
    assert [row[:2] for row in report.rows] == [("rtn", 8), ("rtn", 2), ("osbc", 8), ("osbc", 2)]
    eight, two = report.column("score")[::2], report.column("score")[1::2]
    assert min(eight) > 4 >= max(two)
    assert not hasattr(network[0], "weight_codes")
