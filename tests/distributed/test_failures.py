"""A rank that fails ends the work of all: each one says why, and none waits."""

import os

import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, compress, convert, neurons
from spikeloom.ranks import RankFailed
from tests.distributed.processes import Ranks
from tests.distributed.test_calibration import Folded, spikes, spiking, values

GOOD = values(0)
BAD = {
    "NaN": GOOD * torch.nan,
    "another device": GOOD.to("meta"),
    "another width": GOOD[:, :5],
    "no tensor": "a text",
}


def analog(last=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, last)).eval()


def calibrate(model, batches):
    return compress.calibrate(model, batches)


def las(model, batches):
    return convert.LAS(progress=False).apply(model, batches)


def signgd(model, batches):
    return convert.SignGD(steps=4, progress=False).apply(model, batches)


METHODS = {"calibrate": calibrate, "LAS": las, "signGD": signgd}
EVERY = pytest.mark.parametrize("method", METHODS)


def outcome(method, model, batches):
    try:
        METHODS[method](model, batches)
    except (ValueError, TypeError, RuntimeError) as error:
        return type(error).__name__, str(error)
    return "well", ""


def with_bad_data(rank, method, bad):
    failed = outcome(method, analog(), [GOOD, BAD[bad]] if rank else [GOOD])
    return failed, outcome(method, analog(), [GOOD])


@pytest.mark.parametrize("bad", BAD)
@EVERY
def test_bad_data_on_one_rank_end_all_with_its_error_and_block_nothing(pair, method, bad):
    (other, after), (own, own_after) = pair.run(with_bad_data, method, bad)
    assert own[0] not in ("well", "RankFailed")
    assert other == ("RankFailed", f"rank 1 failed, so all ranks stop: {own[0]}: {own[1]}")
    assert after == own_after == ("well", "")


def with_models(rank, method, last):
    model = analog(last[rank])
    if last[0] == last[1]:
        with torch.no_grad():
            model[2].weight[0, 0] += rank
    return outcome(method, model, [GOOD])


@pytest.mark.parametrize("last", [(3, 3), (3, 4)])
@EVERY
def test_models_that_differ_are_named(pair, method, last):
    message = "model: '2.weight' of rank 1 is not that of rank 0; give all ranks the same model"
    for kind, error in pair.run(with_models, method, last):
        assert kind == "ValueError" and error.startswith(message)


def without_batches(rank, method):
    return outcome(method, analog(), [])


@EVERY
def test_no_batch_on_any_rank_is_named(pair, method):
    for kind, error in pair.run(without_batches, method):
        assert kind == "ValueError" and "no process has a batch; give at least one" in error


class Repeated(nn.Module):
    """An image that is shown to the neuron for as many steps as the first pixel says."""

    def __init__(self):
        super().__init__()
        self.layer, self.neuron = nn.Linear(6, 4), SpikingLayer(neurons.LIF())

    def forward(self, x):
        return self.neuron(self.layer(x).expand(int(x[0, 0]), -1, -1))


def with_other_steps(rank):
    torch.manual_seed(0)
    x = torch.full((2, 6), 3.0 + rank)
    try:
        compress.calibrate(Repeated().eval(), [x])
    except ValueError as error:
        return str(error)


def test_other_numbers_of_steps_are_named(pair):
    message = "layer 'layer': its neuron 'neuron' ran 4 steps on rank 1 and 3 on rank 0"
    assert all(found.startswith(message) for found in pair.run(with_other_steps))


def with_a_changed_layer(rank):
    model = spiking()
    stats = compress.calibrate(model, [spikes(0)])
    if rank:
        stats = compress.Statistics({name: stats[name] for name in list(stats)[:1]})
    before = model[0].weight.clone()
    try:
        compress.prune(model, stats, 0.5, layers=["2"], split=True)
    except (ValueError, RankFailed) as error:
        return type(error).__name__, str(error), torch.equal(model[0].weight, before)


def test_a_failing_rank_leaves_all_models_as_they_were(pair):
    (kind, message, untouched), (own, _, own_untouched) = pair.run(with_a_changed_layer)
    assert (own, kind) == ("ValueError", "RankFailed") and untouched and own_untouched
    assert "rank 1 failed, so all ranks stop: ValueError: layers: '2' was not calibr" in message


def with_lost_rank(rank):
    if rank:
        os._exit(1)
    return outcome("calibrate", Folded().eval(), [spikes(0)])


@pytest.mark.slow
def test_a_rank_that_dies_is_noticed(tmp_path):
    ranks = Ranks(2, tmp_path)
    with pytest.raises(AssertionError, match="rank 1:\nthe process has ended"):
        ranks.run(with_lost_rank)
    assert ranks.answers[0][1][0] == "RankFailed"
    assert "a rank has ended or did not answer within the time-out" in ranks.answers[0][1][1]
    ranks.close()
