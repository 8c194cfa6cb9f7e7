"""The hosts' export calls on networks that have no neuron to tell what an example is."""

import nir
import pytest
import torch
from torch import nn

from spikeloom import plugins
from spikeloom.export import run_nir, to_nir

CALLS = {
    "norse": plugins.norse.to_nir,
    "snntorch": plugins.snntorch.export_to_nir,
    "spikingjelly": plugins.spikingjelly.export_to_nir,
}


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2))


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 2))


EXAMPLES = {
    "a batch": (dense, (5, 3)),
    "one vector": (dense, (3,)),
    "a sequence": (dense, (7, 5, 3)),
    "images": (convolutional, (5, 1, 6, 6)),
}


@pytest.mark.parametrize("host", CALLS)
@pytest.mark.parametrize("example", EXAMPLES)
def test_a_network_without_neurons_is_written_from_what_it_takes(example, host):
    torch.manual_seed(0)
    make, shape = EXAMPLES[example]
    net, x = make().eval(), torch.rand(shape)
    graph = CALLS[host](net, x)
    sequence = x.reshape((-1, 5, 3) if example == "a sequence" else (1, -1, *graph_shape(graph)))
    with torch.no_grad():
        torch.testing.assert_close(run_nir(graph, sequence).reshape(net(x).shape), net(x))


def graph_shape(graph: nir.NIRGraph) -> tuple[int, ...]:
    return tuple(graph.nodes["input"].input_type["input"])


def test_images_over_time_go_through_a_network_without_neurons():
    torch.manual_seed(0)
    net, x = convolutional(), torch.rand(3, 5, 1, 6, 6)
    graph, report = to_nir(net, x)
    assert report.mismatch == 0.0
    with torch.no_grad():
        torch.testing.assert_close(run_nir(graph, x)[1], net(x[1]))


class Blank(nn.Module):
    """Answers without looking."""

    def forward(self, x):
        return torch.zeros(5, 2)


@pytest.mark.parametrize("host", CALLS)
def test_an_error_about_a_repeated_example_says_that_it_was_repeated(host):
    net = nn.Sequential(nn.Linear(3, 2), Blank())
    with pytest.raises(ValueError, match="does not depend on the input") as caught:
        CALLS[host](net, torch.rand(5, 3))
    assert caught.value.__notes__ == ["the example [5, 3] was repeated for 50 steps"]
