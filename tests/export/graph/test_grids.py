"""Pruned and quantised networks of every host, exported."""

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spikeloom import SpikingLayer, compress, neurons
from spikeloom.export import NotExpressible, read, run_nir, to_nir
from spikeloom.export.graph.grids import bits_of_rows
from tests.export.test_hosts import NETS, Seeded, sample, spikes_of


class Loop(nn.Module):
    """snnTorch's single steps as one call for a sequence."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        from spikeloom.plugins import snntorch

        snntorch.reset(self.net)
        return torch.stack([self.net(now)[0] for now in x])


def compressed(host: str, bits: int = 4) -> tuple[nn.Module, nn.Module]:
    """A host's net, half of its weights removed and the others on a grid; and how to call it."""
    net = Seeded(False)(NETS[host]()).eval()
    called = Loop(net).eval() if host == "snntorch" else net
    stats = compress.calibrate(called, [sample()])
    compress.prune(called, stats, 0.5)
    compress.quantize(called, stats, bits)
    return net, called


@pytest.mark.parametrize("host", NETS)
def test_a_compressed_net_is_exact_and_its_grid_is_told_in_the_metadata(host, tmp_path):
    net, called = compressed(host)
    x = sample()
    expected = spikes_of(host, net, x)
    assert 0.01 < expected.mean() < 0.99
    graph, report = to_nir(called, x, path=tmp_path / "net.nir")
    assert report.mismatch == 0
    graph = read(tmp_path / "net.nir")
    layers = {name: m for name, m in called.named_modules() if isinstance(m, nn.Linear)}
    assert len(layers) == 3
    zeros = 0
    for name, layer in layers.items():
        node = graph.nodes[name]
        scale = np.asarray(node.metadata["weight_scale"])
        assert np.array_equal(node.weight, layer.weight.detach().numpy())
        assert np.array_equal(node.weight, scale[:, None] * layer.weight_codes.numpy())
        assert 1 <= node.metadata["weight_bits"] <= 4
        assert node.metadata["weight_sparsity"] == float((node.weight == 0).mean())
        assert (node.weight[layer.weight_mask.numpy()] == 0).all()
        zeros += (node.weight == 0).sum()
    assert zeros >= sum(layer.weight.numel() for layer in layers.values()) // 2
    assert any("NIR has no sparse or packed form" in note for note in report.notes)
    assert "% zeros, 4 bits" in str(report)
    # Nothing depends on it.
    for node in graph.nodes.values():
        node.metadata = {}
    assert torch.equal(run_nir(graph, x), expected)


def test_weights_that_folding_has_changed_are_not_said_to_lie_on_a_grid():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 4), nn.BatchNorm1d(4), SpikingLayer(neurons.LIF(v_threshold=0.5))
    )

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            y = self.net[1](self.net[0](x.flatten(0, 1)))
            return self.net[2](y.unflatten(0, x.shape[:2]))

    model = Steps()
    model(sample())
    model.eval()
    stats = compress.calibrate(model, [sample()])
    compress.prune(model, stats, 0.5)
    compress.quantize(model, stats, 4)
    graph, _ = to_nir(model, sample())
    about = graph.nodes["net.0"].metadata
    assert "weight_bits" not in about
    assert about["weight_sparsity"] >= 0.5


def test_weights_trained_off_their_grid_are_not_said_to_lie_on_it():
    net, called = compressed("norse")
    with torch.no_grad():
        net[0].weight.add_(0.001)
    graph, _ = to_nir(called, sample())
    assert "weight_bits" not in graph.nodes["0"].metadata
    assert "weight_bits" in graph.nodes["2"].metadata


def test_a_dense_net_says_nothing_of_grids():
    graph, report = to_nir(Seeded(False)(NETS["norse"]()), sample())
    assert all(not node.metadata for node in graph.nodes.values())
    assert not any("sparse" in note for note in report.notes)


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_width_of_a_grid_is_found(bits):
    rng = np.random.default_rng(bits)
    codes = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (6, 40))
    codes[:, 0], codes[:, 1] = -(2 ** (bits - 1)), 1
    codes[0] = 0
    steps = rng.uniform(0.01, 3, (6, 1)).astype(np.float32)
    assert bits_of_rows(steps * codes.astype(np.float32)) == bits


def test_floating_point_weights_lie_on_no_grid():
    assert bits_of_rows(np.random.default_rng(0).normal(size=(4, 30)).astype(np.float32)) is None
    assert bits_of_rows(np.array([[1.0, 300.0]], np.float32)) is None
    assert bits_of_rows(np.zeros((2, 3), np.float32)) == 1


def test_lava_asks_for_weights_of_8_bits_and_names_the_function():
    def bare() -> nn.Module:
        net = nn.Sequential(nn.Linear(6, 8, bias=False), SpikingLayer(neurons.LIF()))
        return Seeded(False)(net).eval()

    with pytest.raises(NotExpressible, match=r"no grid of 8 bits.*compress\.quantize"):
        to_nir(bare(), sample(), target="lava")
    net = bare()
    compress.quantize(net, compress.calibrate(net, [sample()]), bits=8)
    graph, report = to_nir(net, sample(), target="lava")
    assert isinstance(graph.nodes["0"], nir.Linear)
    assert any("documentation only" in note for note in report.notes)
