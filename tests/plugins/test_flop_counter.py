"""torch's FlopCounterMode says of a network with our neurons what it says with the host's own.

It counts matrix products and convolutions; the operations of a neuron, fused or not, are none.
"""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def spikingjelly(own):
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import neuron

    from spikeloom.plugins import spikingjelly as loom

    return (loom if own else neuron).ParametricLIFNode(step_mode="m")


def snntorch(own):
    host = pytest.importorskip("snntorch")
    from spikeloom.plugins import snntorch as loom

    return (loom if own else host).Leaky(0.9, init_hidden=True)


def norse(own):
    norse = pytest.importorskip("norse.torch")
    from spikeloom.plugins import norse as loom

    return loom.LIFBoxCell() if own else norse.LIFBoxCell()


class Counted(nn.Module):
    """A layer, the neuron, and a layer behind its spikes."""

    def __init__(self, neuron):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.neuron, self.second = nn.Linear(6, 5), neuron, nn.Linear(5, 3)

    def forward(self, x):
        spikes = self.neuron(self.first(x))
        return self.second(spikes[0] if isinstance(spikes, tuple) else spikes)


@pytest.mark.parametrize("host", [spikingjelly, snntorch, norse], ids=lambda host: host.__name__)
def test_products_are_counted_alike_forward_and_backward(host):
    counts = []
    for own in (True, False):
        net = Counted(host(own))
        with FlopCounterMode(display=False) as counter:
            net(torch.ones(4, 2, 6)).sum().backward()
        counts.append(counter.get_flop_counts())
    assert counts[0] == counts[1]
    # Forward two products, backward two for each but the input's: 2 operations an element.
    assert counter.get_total_flops() == 2 * 8 * (6 * 5 * 2 + 5 * 3 * 3)
