"""Finished networks: what compression left is permanent, and still known."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, compress, convert, export, neurons
from spikeloom.verify import check_mfi, count_energy, fold_norms

T, B = 6, 4


def sample():
    return 2 * torch.rand(T, B, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Two layers, one with a norm of its outputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.first = nn.Linear(8, 12), SpikingLayer(neurons.LIF(v_threshold=0.2))
        self.fc, self.norm = nn.Linear(12, 6), nn.BatchNorm1d(6)
        self.second = SpikingLayer(neurons.LIF(v_threshold=0.2))
        self.norm.running_var.uniform_(0.5, 2.0)
        self.norm.running_mean.uniform_(-0.2, 0.2)
        self.eval()

    def forward(self, x):
        spikes = self.first(self.stem(x))
        return self.second(self.norm(self.fc(spikes).flatten(0, 1)).unflatten(0, x.shape[:2]))


def compressed(sparsity=0.6, bits=4):
    net = Net()
    stats = compress.calibrate(net, [sample()])
    if sparsity:
        compress.prune(net, stats, sparsity)
    if bits:
        compress.quantize(net, stats, bits)
    return net


def test_a_finished_network_computes_the_same_with_plain_layers():
    net = compressed()
    finished = compress.finish(net)
    assert net(sample()).mean() > 0
    assert torch.equal(finished(sample()), net(sample()))
    plain = nn.Linear(2, 2)
    for layer in (finished.stem, finished.fc):
        assert type(layer) is nn.Linear
        for hooks in ("_forward_pre_hooks", "_forward_hooks", "_state_dict_pre_hooks"):
            assert getattr(layer, hooks) == getattr(plain, hooks)
    assert len(net.fc._forward_pre_hooks) == 1


def test_a_finished_weight_no_longer_trains():
    finished = compress.finish(compressed())
    before = finished.fc.weight.clone()
    trained = [p for p in finished.parameters() if p.requires_grad]
    assert all(p is not finished.fc.weight for p in trained)
    finished.fc(torch.ones(2, 12)).sum().backward()
    torch.optim.SGD(trained, 0.1).step()
    assert torch.equal(finished.fc.weight, before)
    assert finished.fc.bias.grad is not None


@pytest.mark.parametrize(("sparsity", "bits"), [(0.6, None), (None, 3), (0.6, 3)])
def test_the_report_tells_zeros_and_bits_as_counted_by_hand(sparsity, bits):
    finished = compress.finish(compressed(sparsity, bits))
    for name, weights, zeros, width in finished.report.rows:
        weight = finished.get_submodule(name).weight.detach().numpy()
        assert weights == weight.size
        assert zeros == np.count_nonzero(weight == 0)
        assert width == bits


def test_what_an_optimiser_left_in_removed_weights_goes_for_good():
    net = compressed(bits=None)
    with torch.no_grad():
        net.fc.weight.add_(1.0)
    finished = compress.finish(net)
    assert torch.equal(finished.fc.weight == 0, net.fc.weight_mask)


def test_a_weight_that_has_left_its_grid_is_refused():
    net = compressed(sparsity=None)
    with torch.no_grad():
        net.fc.weight[0, 0] += 1e-3
    with pytest.raises(ValueError, match="the weight of 'fc' has changed since it was quantised"):
        compress.finish(net)


def test_a_network_that_is_not_compressed_is_refused():
    with pytest.raises(ValueError, match="no layer of it is compressed"):
        compress.finish(Net())


def test_finishing_again_changes_nothing():
    once = compress.finish(compressed())
    again = compress.finish(once)
    assert again.report.rows == once.report.rows
    assert all(torch.equal(a, b) for a, b in zip(once.buffers(), again.buffers(), strict=True))


@pytest.mark.parametrize("end", [lambda net: net, compress.finish], ids=["before", "after"])
def test_save_and_load_keep_masks_and_codes(end):
    net = end(compressed())
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    loaded = Net()
    compress.load_compressed(loaded, torch.load(file))
    assert torch.equal(loaded(sample()), net(sample()))
    assert torch.equal(loaded.fc.weight_codes, net.fc.weight_codes)
    assert torch.equal(loaded.stem.weight_mask, net.stem.weight_mask)
    assert torch.equal(compress.finish(loaded).fc.weight, net.fc.weight)


@pytest.mark.parametrize("order", ["fold, finish", "finish, fold"])
def test_a_finished_network_is_proved_and_folds_with_its_codes(order):
    net, x = compressed(), sample()
    first, second = (fold_norms, compress.finish)[:: 1 if order.startswith("fold") else -1]
    done = second(first(net))
    assert fold_norms(net).report.column("result") == ["folded"]
    assert torch.equal(done.fc.weight, done.fc.weight_scale[:, None] * done.fc.weight_codes)
    assert torch.equal(done.fc.weight_mask, net.fc.weight_mask)
    assert torch.equal(done(x), net(x))
    assert check_mfi(done, x).ok


@pytest.mark.parametrize(
    "compressing", [{"bits": None}, {"sparsity": None}, {}], ids=["pruned", "quantised", "both"]
)
@pytest.mark.parametrize("end", [lambda net: net, compress.finish], ids=["before", "after"])
def test_proofs_hold_before_and_after_finishing(compressing, end):
    net = end(fold_norms(compressed(**compressing)))
    assert check_mfi(net, sample()).ok


class Scaled(nn.Linear):
    def forward(self, input):
        return super().forward(0.7 * input)


def test_a_planted_multiplication_is_still_found():
    net = compress.finish(fold_norms(compressed()))
    net.fc.__class__ = Scaled
    assert check_mfi(net, sample()).violations == ["fc"]


def test_a_file_tells_what_a_finished_layer_keeps():
    torch.manual_seed(0)
    neuron = neurons.LIFBox(dt=0.001)
    net = nn.Sequential(nn.Linear(8, 6), SpikingLayer(neuron)).eval()
    stats = compress.calibrate(net, [sample()])
    compress.prune(net, stats, 0.5)
    compress.quantize(net, stats, 4)
    finished = compress.finish(net)
    graph, _ = export.to_nir(finished, sample()[:, :1], dt=0.001)
    node = graph.nodes["0"]
    assert np.array_equal(node.weight, net[0].weight.detach().numpy())
    assert node.metadata["weight_bits"] == 4
    assert np.array_equal(node.metadata["weight_scale"], net[0].weight_scale.numpy())
    assert node.metadata["weight_sparsity"] == pytest.approx(0.5, abs=0.05)


def test_a_finished_network_compiles_without_a_graph_break():
    finished = compress.finish(compressed())
    layer = torch.compile(finished.fc, fullgraph=True, backend="eager")
    x = torch.ones(2, 12)
    torch.testing.assert_close(layer(x), finished.fc(x))


def test_a_copy_is_made_and_the_network_trains_on():
    net = compressed()
    state = copy.deepcopy(net.state_dict())
    compress.finish(net)
    assert net.fc.weight.requires_grad
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())


def test_what_is_counted_stays_the_same():
    net, x = compressed(), sample()
    before, after = count_energy(net, x), count_energy(compress.finish(net), x)
    assert (before.accumulates, before.macs) == (after.accumulates, after.macs)
    assert before.memory == after.memory


def analog():
    """A network without neurons, pruned and quantised, and its input."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(16, 6)
    stats = compress.calibrate(net, [x])
    compress.prune(net, stats, 0.5)
    compress.quantize(net, stats, 4)
    return net, x


CONVERSIONS = {"LAS": convert.LAS(), "SignGD": convert.SignGD(steps=64)}


@pytest.mark.parametrize("conversion", CONVERSIONS.values(), ids=CONVERSIONS)
def test_a_finished_network_converts_with_its_zeros(conversion):
    net, x = analog()
    converted = conversion.apply(compress.finish(net), x)
    assert (converted(x) - net(x)).abs().max() < 0.01 * net(x).abs().max()
    zeros = [int((p == 0).sum()) for p in converted.parameters() if p.dim() > 1]
    assert zeros == [int((net[i].weight == 0).sum()) for i in (0, 2)]


def test_a_pruned_network_is_exported_once_it_is_finished():
    net, x = analog()
    with pytest.raises(ValueError, match=r"export the network that compress\.finish"):
        torch.export.export(net, (x,))
    with pytest.raises(TypeError, match=r"export the network that compress\.finish"):
        CONVERSIONS["SignGD"].apply(net, x)
    exported = torch.export.export(compress.finish(net), (x,)).module()
    torch.testing.assert_close(exported(x), net(x))
