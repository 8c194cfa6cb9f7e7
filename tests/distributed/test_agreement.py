"""Ranks that are given different settings, models or folders are told so, all of them."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from spikeloom import SpikingLayer, compress, convert, neurons
from spikeloom.stored import on_meta
from tests.distributed.test_calibration import spikes, spiking, values


def analog(activation=nn.GELU):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 3)).eval()


def said(work):
    try:
        work()
    except (ValueError, TypeError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "well"


def calibrated(**settings):
    return compress.calibrate(spiking(), [spikes(0)], **settings)


def pruned(**settings):
    return compress.prune(spiking(), calibrated(), split=True, **settings)


def quantized(**settings):
    return compress.quantize(spiking(), calibrated(), split=True, **settings)


def las(**settings):
    return convert.LAS(**settings).apply(analog(), [values(0)])


def signgd(**settings):
    return convert.SignGD(**{"steps": 4, "progress": False, **settings}).apply(analog(), values(0))


DIFFERENT = {
    "layers": (calibrated, {"layers": ["0"]}, {"layers": ["2"]}),
    "plain": (calibrated, {"plain": True}, {"plain": False}),
    "traces": (
        calibrated,
        {"traces": {"1": neurons.Trace(0.5)}},
        {"traces": {"1": neurons.Trace(torch.tensor([0.5]))}},
    ),
    "sparsity": (pruned, {"sparsity": 0.5}, {"sparsity": 0.75}),
    "bits": (quantized, {"bits": 3}, {}),
    "steps": (las, {"steps": 4}, {"steps": 8}),
    "ranges": (las, {"ranges": 2, "progress": False}, {"ranges": 3, "progress": True}),
    "quantile": (signgd, {"quantile": 0.9}, {}),
    "samples": (signgd, {}, {"samples": 3}),
}


def with_settings(rank, name):
    work, *settings = DIFFERENT[name]
    return said(lambda: work(**settings[rank]))


@pytest.mark.parametrize("name", DIFFERENT)
def test_settings_that_differ_are_named_on_all_ranks(pair, name):
    first, second = pair.run(with_settings, name)
    assert first == second
    assert first.startswith(f"ValueError: {name}: ") and " on rank 0 and " in first
    assert "on rank 1; give all ranks the same settings" in first


def with_other_words(rank):
    def forward(model, batch):
        return model(batch)

    layers = ("0", "2") if rank else ["0", "2"]
    stats = compress.calibrate(spiking(), [spikes(0)], layers=layers, forward=forward)
    las(steps=4, progress=rank == 0)
    return list(stats)


def test_what_each_rank_may_have_as_it_likes_is_not_compared(pair):
    assert pair.run(with_other_words) == [["0", "2"]] * 2


def with_other_calls(rank):
    return said(lambda: las(progress=False) if rank else calibrated())


def test_different_calls_are_named(pair):
    first, second = pair.run(with_other_calls)
    assert first == second
    assert first.startswith("ValueError: rank 0 calls calibrate and rank 1 LAS.apply")


def neuron_of(tau):
    return nn.Sequential(nn.Linear(6, 4), SpikingLayer(neurons.LIF(tau=tau))).eval()


def flipped(rank):
    model = analog()
    if rank:
        with torch.no_grad():
            model[0].weight.copy_(model[0].weight.flip(0))
    return model


def masked(rank):
    model = spiking()
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[rank] = True
    model[0].register_buffer("weight_mask", mask)
    return model


MODELS = {
    "0.weight": flipped,
    "0.weight_mask": masked,
    "1": lambda rank: neuron_of(4.0 if rank else 1.5),
    "0.1": lambda rank: nn.Sequential(analog(nn.SiLU if rank else nn.GELU)),
}


def with_models(rank, name):
    return said(lambda: compress.calibrate(MODELS[name](rank).eval(), [spikes(0)]))


@pytest.mark.parametrize("name", MODELS)
def test_models_that_differ_in_order_in_kind_or_in_plain_numbers_are_named(pair, name):
    first, second = pair.run(with_models, name)
    assert first == second and first.startswith(f"ValueError: model: {name!r} of rank 1 is not")


def with_counters(rank):
    model = nn.Sequential(nn.Linear(6, 4), nn.Flatten(0, 1), nn.BatchNorm1d(4)).eval()
    torch.manual_seed(0)
    nn.init.normal_(model[0].weight)
    model[2].num_batches_tracked += rank
    return said(lambda: compress.calibrate(model, [spikes(0)]))


def test_counters_may_differ(pair):
    assert pair.run(with_counters) == ["well"] * 2


def with_folders(rank, folder):
    source = folder / f"source{rank}"
    source.mkdir()
    model = spiking()
    if rank:
        with torch.no_grad():
            model[2].weight.copy_(model[2].weight.flip(0))
    save_file(model.state_dict(), source / "model.safetensors")
    with on_meta():
        empty = spiking()
    return said(
        lambda: compress.osbc_folder(source, folder / "target", empty, [spikes(0)], sparsity=0.5)
    )


def test_checkpoints_that_differ_are_named(pair, tmp_path):
    first, second = pair.run(with_folders, tmp_path)
    assert first == second and first.startswith("ValueError: source: '2.weight' of rank 1 is not")


def sharded():
    model = spiking()
    fully_shard(model[0])
    return model


def with_shards(rank):
    stats = compress.calibrate(spiking(), [spikes(0)])
    works = (
        lambda: compress.calibrate(sharded(), [spikes(0)]),
        lambda: compress.prune(sharded(), stats, 0.5),
        lambda: compress.quantize(sharded(), stats),
        lambda: convert.LAS(progress=False).apply(sharded(), [values(0)]),
        lambda: convert.SignGD(progress=False).apply(sharded(), [values(0)]),
        lambda: convert.SpikeLM().apply(sharded()),
    )
    return [said(work) for work in works]


def test_sharded_models_are_refused_with_the_remedy(pair):
    for rank in pair.run(with_shards):
        for message in rank:
            assert message.startswith("TypeError: model: '0.weight' is a DTensor")
            assert "before fully_shard" in message and "full_state_dict=True" in message


def with_wrapper(rank):
    return said(lambda: convert.SignGD().apply(DistributedDataParallel(analog()), [values(0)]))


def test_signgd_names_what_a_wrapper_holds(pair):
    for message in pair.run(with_wrapper):
        assert message.startswith("TypeError: model: ") and "model.module" in message
