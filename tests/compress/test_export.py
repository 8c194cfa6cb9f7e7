import numpy as np
import torch
from torch import nn

from spikeloom import SpikingLayer, compress, export, neurons
from tests.compress.cases import spikes


def test_a_compressed_network_exports_its_weights_to_the_last_bit():
    net = nn.Sequential(
        nn.Linear(8, 6),
        SpikingLayer(neurons.LIFBox(dt=0.001)),
        nn.Linear(6, 3),
        SpikingLayer(neurons.LIFBox(dt=0.001)),
    ).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(20)
    x = spikes(10, 4, 8)
    stats = compress.calibrate(net, [x])
    compress.prune(net, stats, 0.5)
    compress.quantize(net, stats, 4)
    graph, _ = export.to_nir(net, x[:, :1], dt=0.001)
    for name in ("0", "2"):
        layer, weight = net.get_submodule(name), graph.nodes[name].weight
        assert np.array_equal(weight, layer.weight.detach().numpy())
        assert weight.dtype == np.float32
        codes, scale = layer.weight_codes.numpy(), layer.weight_scale.numpy()
        assert np.array_equal(weight, scale[:, None] * codes)
