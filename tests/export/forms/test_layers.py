"""Layers that end a network of images, or begin one that makes images."""

import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import layer as host_layers
from spikingjelly.activation_based import neuron as host_neurons
from torch import nn

from spikeloom import SpikingLayer, neurons
from spikeloom.export import NotExpressible, from_nir, read, run_nir, to_nir
from spikeloom.plugins import spikingjelly as loom
from tests.export.readers import HOST_READERS

T, B = 12, 3


class Steps(nn.Module):
    """Applies a layer of torch to each step."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.flatten(0, 1)).unflatten(0, (len(x), -1))


def drawn(*shape: int) -> torch.Tensor:
    return torch.rand(T, B, *shape, generator=torch.Generator().manual_seed(2)) * 3


SIZES = [1, 2, (1, 1), (3, 2), (None, 1), (2, None), (6, 4)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_adaptive_pool_is_a_pool_where_sizes_divide(size, tmp_path):
    x = drawn(2, 6, 4)
    path = tmp_path / "pool.nir"
    graph, report = to_nir(Steps(nn.AdaptiveAvgPool2d(size)), x, path=path, target="nir")
    expected = F.adaptive_avg_pool2d(x.flatten(0, 1), size)
    assert report.mismatch == 0.0
    assert report.column("nodes") == ["AvgPool2d"]
    assert [type(node).__name__ for node in graph.nodes.values()].count("AvgPool2d") == 1
    torch.testing.assert_close(run_nir(read(path), x).flatten(0, 1), expected)


@pytest.mark.parametrize("size", [4, 5, (1, 3), (12, 4)], ids=str)
def test_an_adaptive_pool_whose_sizes_do_not_divide_is_refused(size):
    with pytest.raises(NotExpressible, match=r"layer \(AdaptiveAvgPool2d\).*\[6, 4\].*divide"):
        to_nir(Steps(nn.AdaptiveAvgPool2d(size)), drawn(2, 6, 4), target="nir")


def test_an_adaptive_pool_without_channels_is_refused():
    with pytest.raises(NotExpressible, match="takes 3 axes"):
        to_nir(nn.AdaptiveAvgPool2d(1), drawn(4, 4), target="nir")


def head(mode: str) -> nn.Module:
    """As a ResNet ends, between neurons."""
    from spikingjelly.activation_based import functional, layer

    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1),
        loom.IFNode(),
        layer.AdaptiveAvgPool2d((1, 1)),
        layer.Flatten(),
        layer.Linear(4, 5),
        loom.LIFNode(tau=2.0),
    )
    net[4].weight.data.mul_(64).round_().div_(4)
    functional.set_step_mode(net, mode)
    return net


@pytest.mark.parametrize("mode", ["s", "m"])
def test_the_end_of_a_residual_network_is_read_by_spikingjelly(mode):
    x = drawn(2, 8, 8)
    graph, report = to_nir(head(mode), x)
    with torch.no_grad():
        expected = head("m")(x)
    assert report.mismatch == 0.0
    assert 0 < expected.mean() < 1
    assert torch.equal(from_nir(graph)(x).detach(), expected)
    assert torch.equal(HOST_READERS["spikingjelly"](graph, x), expected)


def test_features_that_become_a_map_and_flat_again_leave_no_node():
    net = nn.Sequential(
        nn.Linear(3, 8), nn.Unflatten(2, (2, 2, 2)), SpikingLayer(neurons.IF()), nn.Flatten(2)
    )
    x = drawn(3)
    graph, report = to_nir(net, x, dense_token_mixing=True)
    assert report.mismatch == 0.0
    with torch.no_grad():
        assert torch.equal(run_nir(graph, x), net(x))


def maker(after: nn.Module) -> nn.Module:
    """A map made of features, and what a layer makes of it, step by step."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 32), nn.Unflatten(1, (2, 4, 4)), after, loom.IFNode(step_mode="s")
    )


AFTER = {
    "convolution": lambda: nn.Conv2d(2, 3, 3),
    "pool": lambda: nn.AvgPool2d(2),
    "adaptive pool": lambda: nn.AdaptiveAvgPool2d(2),
    "nothing": nn.Identity,
}


@pytest.mark.parametrize("after", AFTER)
def test_a_layer_behind_an_unflattening_is_a_matrix(after, tmp_path):
    net, x = maker(AFTER[after]()), drawn(3)
    path = tmp_path / "net.nir"
    _, report = to_nir(net, x, dense_token_mixing=True, path=path)
    with torch.no_grad():
        expected = torch.stack([net(now) for now in x])
    assert report.mismatch == 0.0
    assert 0 < expected.mean() < 1
    assert torch.equal(run_nir(read(path), x), expected.flatten(2))


@pytest.mark.parametrize("after", ["convolution", "pool", "adaptive pool"])
def test_a_layer_behind_an_unflattening_names_the_flag(after):
    with pytest.raises(NotExpressible) as caught:
        to_nir(maker(AFTER[after]()), drawn(3))
    assert [offence.module for offence in caught.value.offences] == ["2"]
    assert "dense_token_mixing=True" in str(caught.value)


@pytest.mark.parametrize("home", [nn, host_layers], ids=["torch", "spikingjelly"])
def test_a_maximum_is_refused_because_the_format_has_none(home):
    net = nn.Sequential(home.Conv2d(2, 3, 3), host_neurons.IFNode(), home.MaxPool2d(2))
    with pytest.raises(NotExpressible, match="the format has no maximum, so that no reader") as no:
        to_nir(net, torch.rand(4, 2, 2, 6, 6))
    assert [offence.module for offence in no.value.offences] == ["2"]
