"""What is counted on snnTorch networks: a rate penalty, and NeuroBench on the native copy."""

import pytest
import torch
from snntorch import Leaky
from snntorch.functional import reg
from torch import nn

from spikeloom.plugins import snntorch as loom


def network(cls):
    torch.manual_seed(0)
    first, second = cls(0.9, init_hidden=True), cls(0.9, init_hidden=True, output=True)
    return nn.Sequential(nn.Linear(6, 5), first, nn.Linear(5, 3), second)


def test_the_rate_penalty_is_that_of_the_hosts_neuron():
    x = 3 * torch.rand(7, 4, 6)
    own, host = (
        reg.l1_rate_sparsity(0.5)(torch.stack([net(now)[0] for now in x]))
        for net in (network(loom.Leaky), network(Leaky))
    )
    assert own == host > 0


def test_signed_spikes_cancel_in_the_rate_penalty_unless_they_are_magnitudes():
    spikes, _ = loom.ElasticBiSpike(1.0)(torch.tensor([[2.0, -2.0, 0.0]]))
    assert reg.l1_rate_sparsity(1.0)(spikes) == 0
    assert reg.l1_rate_sparsity(1.0)(spikes.abs()) == 2


def neurobench_says(net, x):
    """Every metric of a network as NeuroBench names them, accuracy aside."""
    models = pytest.importorskip("neurobench.models")
    from neurobench.metrics import static, workload

    model = models.SNNTorchModel(net)
    model.register_hooks()
    predicted = model(x)
    said = {name: getattr(static, name)()(model) for name in static.__all__}
    for name in ("ActivationSparsity", "SynapticOperations", "NeuronOperations", "MembraneUpdates"):
        metric = getattr(workload, name)()
        result = metric(model, predicted, (x, torch.zeros(len(x))))
        said[name] = metric.compute() if hasattr(metric, "compute") else result
    return said


def test_neurobench_says_of_the_native_copy_what_it_says_of_the_hosts_network():
    x = 3 * torch.rand(4, 7, 6)
    expected = neurobench_says(network(Leaky), x)
    assert neurobench_says(loom.to_host(network(loom.Leaky)), x) == expected
    assert 0 < expected["ActivationSparsity"] < 1 and expected["MembraneUpdates"] > 0


def test_neurobench_finds_no_neurons_of_ours():
    """As ``to_host`` and the documentation say; products it counts all the same."""
    x, net = 3 * torch.rand(4, 7, 6), network(loom.Leaky)
    said = neurobench_says(net, x)
    assert said["ActivationSparsity"] == said["MembraneUpdates"] == 0
    assert said["SynapticOperations"]["Dense"] > 0
