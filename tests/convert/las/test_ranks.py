"""Processes that share the calibration batches find the ranges of one that has all of them."""

import os
import socket

import pytest
import torch
from torch import nn

from spikeloom import convert

pytestmark = pytest.mark.slow


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


def _of_process(rank, port, shares, results):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=len(shares))
    try:
        results[rank] = converted([passage(*numbers) for numbers in shares[rank]])
    except ValueError as error:
        results[rank] = str(error)
    torch.distributed.destroy_process_group()


def of_processes(*shares):
    """What each of some processes finds that are given these passages."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(_of_process, (port, shares, results), nprocs=len(shares))
        return [results[rank] for rank in range(len(shares))]


def test_ranges_and_report_are_those_of_one_process_bit_for_bit():
    shares = [], [(2,), (0,)], [(1,), (3,), (4,)]
    # All begin with the first batch that a process has.
    weights, *expected = converted([passage(*numbers) for share in shares for numbers in share])
    for found, *reported in of_processes(*shares):
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], weights[name]) for name in weights)
        assert reported == expected


def test_what_one_process_alone_reached_and_no_batch_at_all_are_named():
    for message in of_processes([(0,)], [(1,), (5, 9)]):
        assert "the batches of rank 1 reached 'las_calls." in message
        assert "give every process batches that use the same parts" in message
    assert set(of_processes([], [])) == {
        "calibration: no process has a batch; give at least one of them one"
    }
