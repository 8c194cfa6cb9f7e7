"""Networks without some of their weights: what is left of them is proved and counted."""

import copy

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import compress, neurons
from spikeloom.hosted import made, output_of
from spikeloom.plugins import norse, snntorch, spikingjelly
from spikeloom.verify import check_mfi, count_energy, fold_norms

T, B = 5, 3
MAKES = {
    "spikeloom": spikeloom.SpikingLayer,
    "spikingjelly": spikingjelly.make,
    "snntorch": snntorch.make,
    "norse": norse.make,
}


class Net(nn.Module):
    """A map of spikes, read by a convolution with groups, a transposed one, and two products."""

    def __init__(self, make) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2)
        self.wide = nn.ConvTranspose2d(4, 2, 3, stride=2)
        self.head = nn.Linear(2 * 9 * 9, 6, bias=False)
        self.last = nn.Linear(6, 4)
        for name in ("one", "two", "three", "four"):
            setattr(self, name, made(make, neurons.LIF(v_threshold=0.1)))
        self.eval()

    def forward(self, x):
        x = output_of(self.one(self.mapped(self.stem, x)))
        x = output_of(self.two(self.mapped(self.conv, x)))
        x = output_of(self.three(self.mapped(self.wide, x)))
        return self.last(output_of(self.four(self.head(x.flatten(2)))))

    @staticmethod
    def mapped(layer, x):
        return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def sample():
    return 2 * torch.rand(T, B, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def pruned(net):
    """The network without half of its weights, some rows of which are gone altogether."""
    stats = compress.calibrate(net, [sample()])
    compress.prune(net, stats, sparsity=0.5, method="magnitude")
    with torch.no_grad():
        net.head.weight[:2] = 0.0
    return net


def uses(layer, x):
    """How often weights that exist are used by an input of so many spikes, one by one."""
    present = copy.deepcopy(layer).double()
    present.bias = None
    with torch.no_grad():
        present.weight.copy_(present.weight != 0)
        for hooks in (present._forward_pre_hooks, present._forward_hooks):
            hooks.clear()
        return float(present(x.double()).sum())


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_synapses_are_the_weights_that_exist(make):
    net, x = pruned(Net(make)), sample()
    report = count_energy(net, x)
    inputs = {}
    for name, layer in net.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(
                lambda layer, args, y, name=name: inputs.update({name: args[0].detach()})
            )
    spikeloom.hosted.to_rest(net)
    net(x)
    driven = {name: x for name, x in inputs.items() if name != "stem"}
    rows = dict(zip(report.column("module"), report.column("AC"), strict=True))
    for name, spikes in driven.items():
        assert rows[name] > 0
        assert rows[name] * B == pytest.approx(uses(net.get_submodule(name), spikes))
    ones = {name: uses(net.get_submodule(name), torch.ones_like(x)) for name, x in inputs.items()}
    assert report.macs * B == pytest.approx(ones.pop("stem"))
    assert report.dense * B == pytest.approx(sum(ones.values()))
    assert report.accumulates < 0.8 * count_energy(Net(make), x).accumulates


def test_the_gathering_run_adds_the_weights_that_exist():
    net, x = pruned(Net(spikeloom.SpikingLayer)), sample()
    found = check_mfi(net, x)
    assert found.ok, str(found)
    assert found.accumulates == pytest.approx(count_energy(net, x).accumulates * B)


class Normed(nn.Module):
    """A convolution whose norm and pool are folded."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        lif = neurons.LIF(v_threshold=0.3)
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.spike, self.pool = spikeloom.SpikingLayer(lif), nn.AvgPool2d(2)
        self.head, self.out = nn.Linear(64, 5), spikeloom.SpikingLayer(lif)
        self.norm.running_var.uniform_(0.5, 2.0)
        self.eval()

    def forward(self, x):
        x = self.spike(self.norm(self.stem(x.flatten(0, 1))).unflatten(0, x.shape[:2]))
        return self.out(self.head(self.pool(x.flatten(0, 1)).flatten(1).unflatten(0, (T, B))))


@pytest.mark.parametrize("first", ["fold", "prune"])
def test_a_folded_network_stays_free_once_it_is_pruned(first):
    net, x = Normed(), sample()
    net = fold_norms(net) if first == "fold" else net
    compress.prune(net, compress.calibrate(net, [x]), sparsity=0.5)
    net = net if first == "fold" else fold_norms(net)
    assert check_mfi(net, x).ok


class Pair(nn.Module):
    """Linear, LIF, Linear, LIF: the second layer has lost 95 % and is held in 4 bits."""

    def __init__(self, make) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(20, 64), nn.Linear(64, 10)
        self.one, self.two = (made(make, neurons.LIF(v_threshold=0.3)) for _ in range(2))
        self.eval()

    def forward(self, x):
        return output_of(self.two(self.second(output_of(self.one(self.first(x))))))


def spikes_by_hand(layer, x):
    """Leaky neurons behind a layer: v + (x - v) / 2, a threshold of 0.3, reset to 0."""
    v, spikes = 0.0, []
    for current in x @ layer.weight.detach().T + layer.bias.detach():
        h = v + (current - v) / 2
        spikes.append((h >= 0.3).double())
        v = torch.where(h >= 0.3, 0.0, h)
    return torch.stack(spikes)


@pytest.mark.parametrize("end", [lambda net: net, compress.finish], ids=["before", "after"])
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_the_energy_of_a_pruned_and_quantised_network_is_that_counted_by_hand(make, end):
    net, x = Pair(make), 3 * torch.rand(8, 4, 20, generator=torch.Generator().manual_seed(1))
    stats = compress.calibrate(net, [x])
    compress.prune(net, stats, allocation={"first": 0.0, "second": 0.95})
    compress.quantize(net, stats, bits=4, layers=["second"])
    net = end(net)
    exists = net.second.weight.detach() != 0
    spikes = spikes_by_hand(net.first, x)
    accumulates = float((spikes @ exists.double().T).sum()) / 4  # of one sample
    macs, weights = 8 * 20 * 64, int(exists.sum())
    found = count_energy(net, x)
    assert accumulates > 0 and weights <= 0.05 * exists.numel()
    assert (found.accumulates, found.code_accumulates) == (accumulates, accumulates)
    assert (found.macs, found.dense, found.twin_macs) == (macs, 8 * weights, 20 * 64 + weights)
    bits = dict(zip(found.column("module"), found.column("bits"), strict=True))
    assert {name for name, width in bits.items() if width} == {"second"} and bits["second"] == 4
    # How many additions and factors a step takes is its host's affair.
    fixed = 4.6 * macs + 0.9 * found.additions + 3.7 * found.rescales
    assert found.proxy == pytest.approx(fixed + 0.1 * accumulates)
    assert found.twin_proxy == pytest.approx(4.6 * (20 * 64 + weights))
    # A code is half a byte, a weight four; potentials of 74 neurons are read and written.
    moved = 8 * macs + 8 * 8 * 74 + (0.5 + 8) * accumulates
    assert found.memory == pytest.approx(fixed + 0.1 * accumulates + 24.96 * moved)
    twin = 4.6 * (20 * 64 + weights) + 24.96 * (8 * 20 * 64 + (0.5 + 4) * weights)
    assert found.twin_memory == pytest.approx(twin)
