"""Processes that share the calibration batches find the ranges of one that has all of them."""

import torch
from torch import nn

from spikeloom import convert


class Network(nn.Module):
    """Layers with rules, a call of its own, and a part that long passages alone reach."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.norm = nn.Linear(6, 12), nn.GELU(), nn.LayerNorm(12)
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)
        self.last = nn.Linear(12, 3)
        self.of_long = nn.Linear(12, 12)

    def forward(self, x):
        h = self.norm(self.act(self.first(x)))
        h = h + self.attention(h, h, h, need_weights=False)[0] * h.sigmoid()
        if x.shape[1] > 8:
            h = self.of_long(h.tanh())
        return self.last(h)


def passage(number, length=5):
    generator = torch.Generator().manual_seed(number)
    return torch.randn(2, length, 6, generator=generator) * 3.0**number


def converted(calibration):
    network = convert.LAS(progress=False).apply(Network().eval(), calibration)
    report = network.report
    return network.state_dict(), report.rows, report.layers.rows, report.spikes_per_value


def of_rank(rank, shares):
    try:
        return converted([passage(*numbers) for numbers in shares[rank]])
    except ValueError as error:
        return str(error)


def test_ranges_and_report_are_those_of_one_process_bit_for_bit(pair):
    shares = [(2,), (0,)], [(1,), (3,), (4,)]
    # All begin with the first batch that a process has.
    weights, *expected = converted([passage(*numbers) for share in shares for numbers in share])
    for found, *reported in pair.run(of_rank, shares):
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], weights[name]) for name in weights)
        assert reported == expected


def test_what_one_process_alone_reached_is_named(pair):
    for message in pair.run(of_rank, ([(0,)], [(1,), (5, 9)])):
        assert "the batches of rank 1 reached 'las_calls." in message
        assert "give every process batches that use the same parts" in message
