"""NeuroBench's own harness on our networks: its figures are ours, or the difference is known.

NeuroBench does not count a multiply-accumulate of a value that is 0; the samples here have none.
It counts the weights of a quantised layer at the width that they are held in, not at that of codes.
"""

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import compress, convert, neurons
from spikeloom.hosted import to_rest
from spikeloom.verify import count_energy

models = pytest.importorskip("neurobench.models")
static = pytest.importorskip("neurobench.metrics.static")
workload = pytest.importorskip("neurobench.metrics.workload")

# What it warns of while it is imported and run is its own affair.
pytestmark = pytest.mark.filterwarnings("ignore")

T, B = 6, 4


class Wrapped(models.NeuroBenchModel):
    """A network as NeuroBench takes it."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.add_activation_module(spikeloom.SpikingLayer)

    def __net__(self):
        return self.net

    def __call__(self, x):
        to_rest(self.net)
        return self.net(x)


def figures(net, x):
    """What its harness finds in a run of a batch of B samples."""
    model, metric = Wrapped(net), workload.SynapticOperations()
    model.register_hooks()
    with torch.no_grad():
        y = model(x)
    operations = metric(model, y, (torch.zeros(B), None))
    silence = workload.ActivationSparsity()(model, y, None)
    model.cleanup_hooks()
    return {"bytes": static.Footprint()(model), "silence": silence, **operations}


def spiking():
    torch.manual_seed(0)
    one, two = (spikeloom.SpikingLayer(neurons.LIF(v_threshold=0.3)) for _ in range(2))
    net = nn.Sequential(nn.Linear(10, 32), one, nn.Linear(32, 8), two).eval()
    return net, 1 + torch.rand(T, B, 10)


def compressed(how):
    net, x = spiking()
    stats = compress.calibrate(net, [x])
    if "pruned" in how:
        compress.prune(net, stats, 0.75)
    if "quantised" in how:
        compress.quantize(net, stats, 4)
    return compress.finish(net) if how else net, x


@pytest.mark.parametrize("how", ["", "pruned", "quantised", "pruned, quantised"])
def test_operations_and_sparsities_of_a_compressed_network_are_those_of_neurobench(how):
    net, x = compressed(how)
    ours, theirs = count_energy(net, x), figures(net, x)
    assert ours.accumulates == theirs["Effective_ACs"] > 0
    assert ours.macs == theirs["Effective_MACs"] > 0
    assert ours.rate == pytest.approx(1 - theirs["silence"])
    weights = [layer.weight for layer in (net[0], net[2])]
    zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    assert static.ConnectionSparsity()(Wrapped(net)) == pytest.approx(zeros, abs=1e-3)


@pytest.mark.parametrize("how", ["", "pruned"])
def test_dense_operations_of_neurobench_count_weights_that_pruning_has_removed(how):
    net, x = compressed(how)
    ours, theirs = count_energy(net, x), figures(net, x)
    exists = [int((layer.weight != 0).sum()) for layer in (net[0], net[2])]
    assert theirs["Dense"] == T * (10 * 32 + 32 * 8)
    assert (ours.macs, ours.dense) == (T * exists[0], T * exists[1])


def test_the_footprint_of_neurobench_counts_codes_and_steps_beside_the_weights():
    net, x = compressed("pruned, quantised")
    plain, _ = spiking()
    kept = [b for name, b in net.named_buffers() if name.rpartition(".")[2].startswith("weight_")]
    extra = sum(b.numel() * b.element_size() for b in kept)
    assert figures(net, x)["bytes"] == figures(plain, x)["bytes"] + extra


def test_a_network_converted_by_las_has_the_operations_of_the_network_it_was_made_from():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(10, 16), nn.GELU(), nn.Linear(16, 3)).eval(), torch.rand(B, 10)
    x = x + 0.01
    compress.prune(net, compress.calibrate(net, [x]), 0.5)
    plain = compress.finish(net)
    snn = convert.LAS(progress=False).apply(plain, [x])
    ours = count_energy(snn, x).macs
    assert ours == figures(plain, x)["Effective_MACs"] > 0
    # The harness runs each layer on ones to count its weights, and a layer of LAS encodes the ones.
    assert figures(snn, x)["Effective_MACs"] == pytest.approx(ours, rel=0.1)
