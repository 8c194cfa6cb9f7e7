"""Amplitudes from data: the published initialisation, and every rule around it."""

import copy
import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from spikeloom import SpikingLayer, plugins
from spikeloom.convert import BiSpikes, measure_amplitude
from spikeloom.neurons import LIF, ElasticBiSpike

GOLDEN = Path(__file__).parents[2] / "golden"
NEURON = np.load(GOLDEN / "spikelm_neuron.npz")
QUANTISER = np.load(GOLDEN / "spikelm_quantizer.npz")

MAKES = {
    "spikingjelly": plugins.spikingjelly.make,
    "snntorch": plugins.snntorch.make,
    "snntorch, states kept": functools.partial(
        plugins.snntorch.make, init_hidden=True, output=True
    ),
    "norse": plugins.norse.make,
}
MAKES = [pytest.param(make, id=name) for name, make in MAKES.items()]


def table(steps):
    return ElasticBiSpike(torch.ones(steps))


@pytest.mark.parametrize("i", [i for i in range(4) if int(QUANTISER[f"init{i}_bits"]) == 2])
def test_a_first_batch_sets_the_published_amplitude(i):
    x = torch.tensor(QUANTISER[f"init{i}_x"])
    site = BiSpikes(ElasticBiSpike(torch.ones(1), decay=0.0))
    y = site(x[None])
    expected = torch.tensor(QUANTISER[f"init{i}_alpha"]).reshape(1)
    torch.testing.assert_close(site.amplitude, expected, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(y[0], torch.tensor(QUANTISER[f"init{i}_y"]), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("case", ["T4_lazy", "T4_lazy_small_const"])
def test_each_step_is_measured_behind_the_amplitude_of_the_one_before(case):
    x, alpha, y = (torch.tensor(NEURON[f"{case}_{name}"]) for name in ("x", "alpha", "y"))
    site = BiSpikes(table(4))
    found = site(x)
    torch.testing.assert_close(site.amplitude, alpha, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(found, y, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("k", [1.0, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("scale", [0.01, 30.0])
def test_k_sets_the_firing_rate_of_normal_data_at_any_scale(k, scale):
    x = scale * torch.randn(1, 200_000)
    rate = float((BiSpikes(table(1), k=k)(x) != 0).float().mean())
    assert rate == pytest.approx(math.erfc(k / (2 * math.sqrt(math.pi))), abs=0.005)


def test_padding_does_not_count():
    x = torch.randn(3, 2, 5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
    x[:, mask == 0] = 1e6
    found = measure_amplitude(table(3), x, mask=mask)
    kept = torch.stack([step[mask == 1] for step in x])
    torch.testing.assert_close(found, measure_amplitude(table(3), kept))


def test_a_shared_amplitude_is_the_mean_over_all_steps_and_one_per_channel_over_all_but_channels():
    x = torch.randn(3, 2, 5, 4)
    shared = measure_amplitude(ElasticBiSpike(torch.tensor(1.0)), x)
    torch.testing.assert_close(shared, 2 * x.abs().mean())
    channels = measure_amplitude(ElasticBiSpike(torch.ones(1, 1, 4)), x, k=3.0)
    torch.testing.assert_close(channels, 3 * x.abs().mean((0, 1, 2))[None, None])


@pytest.mark.parametrize("alpha", [torch.ones(2), nn.Parameter(torch.ones(2))])
def test_sites_made_of_one_description_have_amplitudes_of_their_own(alpha):
    neuron = ElasticBiSpike(alpha)
    first, second = BiSpikes(neuron), BiSpikes(neuron)
    first(torch.randn(2, 8))
    kept = first.amplitude.clone()
    second(100 * torch.randn(2, 8))
    assert torch.equal(first.amplitude, kept) and not torch.equal(second.amplitude, kept)
    assert torch.equal(alpha, torch.ones(2))


def test_the_first_batch_decides_for_good():
    site = BiSpikes(table(2))
    site(torch.randn(2, 8))
    kept = site.amplitude.clone()
    site(100 * torch.randn(2, 8))
    assert torch.equal(site.amplitude, kept)


def test_a_moving_average_follows_the_data_while_training():
    site = BiSpikes(table(1), rule="moving_average", momentum=0.25)
    site(torch.full((1, 4), 1.0))
    site(torch.full((1, 4), 3.0))
    assert site.amplitude.tolist() == [0.75 * 2.0 + 0.25 * 6.0]
    for silent in (torch.zeros(1, 4), torch.zeros(1, 0)):  # these say nothing
        site(silent)
        assert site.amplitude.tolist() == [3.0]
    site.eval()
    site(torch.full((1, 4), 50.0))
    assert site.amplitude.tolist() == [3.0]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((table(2), torch.randn(3, 4)), ValueError, "x: must have the 2 steps of alpha, got T=3"),
        ((table(2), torch.randn(0, 4)), ValueError, "x: must have the 2 steps of alpha, got T=0"),
        ((ElasticBiSpike(torch.ones(())), torch.randn(0, 4)), ValueError, "at least one step"),
        ((LIF(), torch.randn(2, 4)), TypeError, r"neuron: .* parameter alpha, got LIF\(\)"),
        ((table(2), torch.ones(2, 4).cfloat()), TypeError, r"x: .* got torch\.complex64"),
        ((table(2), [1.0, 2.0]), TypeError, "x: must be a floating-point tensor .* got list"),
    ],
)
def test_what_cannot_be_measured_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        measure_amplitude(*arguments)


@pytest.mark.parametrize("k", [0, -1.0, math.inf, True])
def test_a_k_that_is_not_positive_is_refused(k):
    with pytest.raises(ValueError, match="k: must be a positive finite number"):
        measure_amplitude(table(2), torch.randn(2, 4), k=k)


@pytest.mark.parametrize("make", [SpikingLayer, *MAKES])
def test_two_calls_may_come_before_one_backward_pass(make):
    site = BiSpikes(table(1), rule="moving_average", momentum=0.5, make=make)
    calls = [x.requires_grad_() for x in (torch.linspace(-2, 2, 9)[None], torch.full((1, 9), 6.0))]
    outputs, amplitudes = zip(*((site(x), site.amplitude.clone()) for x in calls), strict=True)
    sum(y.sum() for y in outputs).backward()
    assert amplitudes[0] != amplitudes[1]
    for x, alpha in zip(calls, amplitudes, strict=True):
        assert torch.equal(x.grad, (x.abs() <= alpha).float())


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_a_checkpoint_computes_anew_is_not_measured_again(reentrant):
    site = BiSpikes(table(1), rule="moving_average", momentum=0.5)
    site(torch.ones(1, 4))
    x = torch.tensor([[1.0, 2.0, -3.0, 8.0]], requires_grad=True)
    y = checkpoint(site, x, use_reentrant=reentrant)
    alpha = site.amplitude.clone()
    assert alpha.tolist() == [0.5 * 2.0 + 0.5 * 7.0]
    y.sum().backward()
    assert torch.equal(site.amplitude, alpha) and int(site.batches) == 2
    assert torch.equal(x.grad, (x.abs() <= alpha).float())


@pytest.mark.parametrize("rule", ["first_batch", "moving_average"])
def test_a_site_compiles_to_one_graph_that_still_follows_the_data(rule):
    site, x = BiSpikes(table(2), rule=rule), torch.randn(2, 8)
    site(x)
    plain = copy.deepcopy(site)
    compiled = torch.compile(site, fullgraph=True, backend="eager")
    assert torch.equal(compiled(3 * x), plain(3 * x))
    assert torch.equal(site.amplitude, plain.amplitude)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [SpikingLayer, *MAKES])
def test_a_moving_average_does_not_stand_still_in_half_precision(make, dtype):
    site = BiSpikes(table(1), rule="moving_average", make=make).to(dtype)
    site(torch.full((1, 8), 0.5, dtype=dtype))
    for _ in range(60):
        y = site(torch.full((1, 8), 0.51, dtype=dtype))
    assert site.amplitude.dtype == torch.float32 and y.dtype == dtype
    assert float(site.amplitude) == pytest.approx(2 * float(torch.tensor(0.51).to(dtype)), rel=1e-4)
    assert site.double().amplitude.dtype == torch.float64


def test_a_learned_amplitude_starts_from_the_data_and_trains():
    site = BiSpikes(ElasticBiSpike(nn.Parameter(torch.ones(2))), rule="learned")
    optimizer = torch.optim.SGD(site.parameters(), 0.1)
    x = torch.randn(2, 50)
    site(x).square().sum().backward()
    start = site.amplitude.detach().clone()
    torch.testing.assert_close(start, measure_amplitude(table(2), x))
    optimizer.step()
    assert not torch.equal(site.amplitude, start)


def test_a_fixed_amplitude_stays_also_as_a_number():
    for alpha in (0.7, torch.tensor([0.7])):
        site = BiSpikes(ElasticBiSpike(alpha), rule="fixed")
        assert site(torch.tensor([[0.6]])).tolist() == [[pytest.approx(0.7)]]
    with pytest.raises(ValueError, match="cannot be set from data"):
        BiSpikes(ElasticBiSpike(0.7))(torch.ones(1, 1))


@pytest.mark.parametrize(
    "x, mask, message",
    [
        (torch.randn(2, 3, 4), torch.zeros(3), "the first batch sets the amplitude"),
        (torch.zeros(2, 3, 4), None, "the first batch sets the amplitude"),
        (torch.full((2, 3, 4), math.inf), None, "a state is NaN"),
        (torch.zeros(2, 0, 4), None, "the first batch sets the amplitude"),
    ],
    ids=["all padding", "all zero", "infinite", "empty"],
)
def test_a_first_batch_without_information_is_refused(x, mask, message):
    site = BiSpikes(table(2))
    with pytest.raises(ValueError, match=message):
        site(x, mask)
    site(torch.randn(2, 3, 4))  # and the next one may set it


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"mask: must have the leading shape of a step, \(3, 4\)"):
        measure_amplitude(table(2), torch.randn(2, 3, 4), mask=torch.ones(2))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"k": 0.0}, "k: must be a positive"),
        ({"k": math.nan}, "k: must be a positive"),
        ({"rule": "median"}, "one of .*first_batch.*, got 'median'"),
        ({"momentum": 0.0}, "momentum: must lie in"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BiSpikes(table(1), **arguments)


def test_a_loaded_or_copied_neuron_measures_nothing_again():
    site, x = BiSpikes(table(2)), torch.randn(2, 30)
    site(x)
    loaded = BiSpikes(table(2))
    loaded.load_state_dict(site.state_dict())
    for twin in (loaded, copy.deepcopy(site)):
        assert torch.equal(twin(9 * x), site(9 * x))
        assert torch.equal(twin.amplitude, site.amplitude)
    fresh = BiSpikes(table(2))
    fresh.load_state_dict(BiSpikes(table(2)).state_dict())  # saved before any batch: still waits
    fresh(9 * x)
    torch.testing.assert_close(fresh.amplitude[0], 9 * site.amplitude[0])


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("alpha", [torch.ones(3), torch.tensor(1.0)], ids=["per step", "shared"])
def test_every_hosts_neurons_take_sequences_and_begin_at_rest_in_each_call(make, alpha):
    plain = BiSpikes(ElasticBiSpike(alpha.clone()))
    hosted = BiSpikes(ElasticBiSpike(alpha.clone()), make=make)
    for _ in range(2):
        x = torch.randn(3, 2, 8)
        assert torch.equal(hosted(x), plain(x))
    assert torch.equal(hosted.amplitude, plain.amplitude)


def test_what_makes_no_module_is_refused():
    with pytest.raises(TypeError, match=r"make: must be a function .* got 'norse'"):
        BiSpikes(table(2), make="norse")


class Waits(TorchDispatchMode):
    """Counts the operations that make the host wait for the device."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waiting = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal")
        self.found += func.overloadpacket.__name__ in waiting
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rule", ["first_batch", "moving_average", "learned"])
def test_nothing_waits_for_the_device_after_the_first_batch(rule):
    alpha = nn.Parameter(torch.ones(4)) if rule == "learned" else torch.ones(4)
    site, x = BiSpikes(ElasticBiSpike(alpha), rule=rule), torch.randn(4, 5)
    with Waits() as first:
        site(x)
    with Waits() as second:
        site(x)
    assert first.found and not second.found


@pytest.mark.parametrize("steps", [None, 4])
def test_an_amplitude_is_measured_on_counts_as_on_the_same_numbers(steps):
    counts = torch.randint(0, 5, (4, 3, 6), generator=torch.Generator().manual_seed(0))
    neuron = ElasticBiSpike(torch.tensor(1.0)) if steps is None else table(steps)
    found = measure_amplitude(neuron, counts)
    assert torch.equal(found, measure_amplitude(neuron, counts.float()))
