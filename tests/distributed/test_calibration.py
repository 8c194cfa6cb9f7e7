"""What several processes find in their shares of the data is what one process finds in all."""

import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, compress, convert, neurons
from spikeloom.plugins import norse, snntorch, spikingjelly

# The batches of each rank: one has fewer, or the first has none.
SHARES = [([0, 1], [2]), ([], [0, 1, 2]), ([0, 1, 2], [])]
SPLITS = pytest.mark.parametrize("shares", SHARES, ids=str)


def all_of(shares):
    return [number for share in shares for number in share]


def spikes(number, samples=4):
    generator = torch.Generator().manual_seed(number)
    return (torch.rand(5, samples + number, 6, generator=generator) > 0.5).float()


def values(number, samples=4):
    generator = torch.Generator().manual_seed(number)
    return torch.randn(samples + number, 6, generator=generator) * 2.0**number


HOSTS = {
    "torch": lambda neuron: SpikingLayer(neuron),
    "spikingjelly": lambda neuron: spikingjelly.make(neuron),
    "snntorch": lambda neuron: snntorch.make(neuron, init_hidden=True, time_first=True),
    "norse": lambda neuron: Only(norse.make(neuron)),
}


class Only(nn.Module):
    """The spikes of a module that returns its state as well."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)[0]


def spiking(host="torch"):
    torch.manual_seed(0)
    decays = torch.tensor([1.5, 2.0, 2.0, 4.0])
    neuron = HOSTS[host](neurons.LIF(tau=decays if host == "torch" else 2.0))
    return nn.Sequential(nn.Linear(6, 4), neuron, nn.Linear(4, 3), nn.Linear(3, 3)).eval()


class Folded(nn.Module):
    """A loop over time, whose layer is called once a step."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.neuron = nn.Linear(6, 4), spikingjelly.LIFNode(step_mode="s")

    def forward(self, x):
        return torch.stack([self.neuron(self.layer(now)) for now in x])


def network(name):
    return Folded().eval() if name == "folded" else spiking(name)


def facts_of(stats):
    """Of each layer everything that was counted and summed."""
    found = {}
    for name, layer in stats.items():
        blocks = [*layer.spiking, *layer.plain]
        rows = [block.rows for block in blocks]
        hessians = [block.hessian for block in blocks]
        found[name] = layer.facts, rows, hessians, layer.row_scale
    return found


# --- compress -------------------------------------------------------------------------------------


def calibrated(rank, name, shares):
    return facts_of(compress.calibrate(network(name), [spikes(n) for n in shares[rank]]))


@SPLITS
@pytest.mark.parametrize("name", [*HOSTS, "folded"])
def test_hessians_are_those_of_all_samples(pair, name, shares):
    expected = facts_of(compress.calibrate(network(name), [spikes(n) for n in all_of(shares)]))
    for found in pair.run(calibrated, name, shares):
        assert found.keys() == expected.keys()
        for layer, (facts, rows, hessians, scale) in expected.items():
            assert found[layer][0] == facts
            for one, other in zip(found[layer][1], rows, strict=True):
                assert torch.equal(one, other)
            torch.testing.assert_close(found[layer][2], hessians, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found[layer][3], scale)


def compressed(rank, split):
    model, batches = spiking(), [spikes(n) for n in range(3)]
    stats = compress.calibrate(model, batches)
    pruned = compress.prune(model, stats, 0.5, split=split)
    quantised = compress.quantize(model, stats, bits=4, split=split)
    timeless = [[*row[:-2], row[-1]] for report in (pruned, quantised) for row in report.rows]
    return timeless, model.state_dict()


def test_layers_split_over_ranks_are_compressed_as_by_one_process(pair):
    (rows, weights), *others = pair.run(compressed, False)
    for found_rows, found in [*others, *pair.run(compressed, True)]:
        assert found_rows == rows
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert "0.weight_mask" in weights and "3.weight_codes" in weights


def owned_layers(rank):
    """How many layers each rank has compressed by itself."""
    from spikeloom.compress import compression

    model, done = spiking(), []
    stats = compress.calibrate(model, [spikes(0)])
    whole = compression.prune_blocks

    def counted(*args):
        done.append(args)
        return whole(*args)

    compression.prune_blocks = counted
    try:
        compress.prune(model, stats, 0.5, split=True)
    finally:
        compression.prune_blocks = whole
    return len(done)


def test_no_layer_is_compressed_twice(pair):
    found = pair.run(owned_layers)
    assert sum(found) == 3 and min(found) > 0


# --- convert --------------------------------------------------------------------------------------


def analog():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)).eval()


def recipe(name):
    if name == "LAS":
        return convert.LAS(progress=False)
    settings = {
        "signGD": {},
        "signGD, quantile": {"quantile": 0.75},
        "signGD, node": {"per": "node"},
    }
    return convert.SignGD(steps=8, samples=8, progress=False, **settings[name])


def converted(rank, name, shares):
    snn = recipe(name).apply(analog(), [values(n) for n in shares[rank]])
    scales = {n: torch.as_tensor(s) for n, s in getattr(snn, "scales", {}).items()}
    seen = getattr(getattr(snn, "entry", None), "seen", None)
    return {**snn.state_dict(), **scales}, snn.report.rows, seen, snn(values(1))


@SPLITS
@pytest.mark.parametrize("name", ["LAS", "signGD", "signGD, quantile", "signGD, node"])
@pytest.mark.filterwarnings("ignore:signGD")
def test_conversions_are_those_of_one_process_bit_for_bit(pair, name, shares):
    weights, *expected, y = converted(0, name, [all_of(shares)])
    for found, *others, own in pair.run(converted, name, shares):
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[n], value) for n, value in weights.items())
        assert others == expected
        assert torch.equal(own, y)


def warned_of(rank, shares):
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        samples = {0: torch.ones(1, 6), 1: torch.zeros(1, 6)}
        convert.SignGD(steps=4, progress=False).apply(analog(), [samples[n] for n in shares[rank]])
    return sum("its samples are all alike" in str(warning.message) for warning in caught)


def test_samples_are_alike_only_if_those_of_all_ranks_are(pair):
    assert pair.run(warned_of, [[0], [0]]) == [1, 1]
    assert pair.run(warned_of, [[0], [1]]) == [0, 0]
    assert pair.run(warned_of, [[0], []]) == [0, 0]
