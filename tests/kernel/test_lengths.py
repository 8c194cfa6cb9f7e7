"""Sequences of different lengths in one call: as if each ran alone."""

import copy

import pytest
import torch

import spikeloom
from spikeloom import neurons
from spikeloom.kernel.neuron import PerStep

T, BATCH, N = 12, 5, 3
LENGTHS = [12, 0, 7, 1, 12]
NEURONS = {
    "LIF": lambda: neurons.LIF(tau=2.0),
    "soft reset": lambda: neurons.LIF(tau=3.0, v_reset=None),
    "begins elsewhere": lambda: neurons.LIF(v_reset=-0.5),
    "Synaptic": lambda: neurons.Synaptic(0.5, 0.75),
    "AdEx": lambda: neurons.AdEx(),
    "ALIF": lambda: neurons.ALIF(),
    "LI": lambda: neurons.LI(500.0),
    "ElasticBiSpike": lambda: neurons.ElasticBiSpike(0.5),
    "SignGD": lambda: neurons.SignGD("relu", neurons.Inverse(1.0)),
    "a step of the user": lambda: spikeloom.Neuron(two_outputs, params={"a": 0.5}),
}


def two_outputs(x, state, p):
    (v,) = state
    return (v, p.a * x), (p.a * v + x,)


def drive(dtype=torch.float32, seed=0):
    x = 2 * torch.randn(T, BATCH, N, generator=torch.Generator().manual_seed(seed)) + 0.5
    return ((x * 8).round() / 8).to(dtype)


def first(y):
    return y[0] if isinstance(y, tuple) else y


def alone(neuron, x, state, **how):
    """Each sequence by itself, and the gradients of its input and its first states."""
    found = []
    for i, length in enumerate(LENGTHS):
        own = x[:length, i : i + 1].detach().requires_grad_()
        begins = None if state is None else tuple(v[i : i + 1].detach() for v in state)
        y, last, *seq = spikeloom.run(neuron, own, begins, **how)
        found.append((own, first(y), last, seq))
    return found


def gradients_alone(own, y, last):
    total = sum(w.sum() for w in last if w.requires_grad)
    total = total + (y * weights(y)).sum() if y.requires_grad else total
    return torch.autograd.grad(total, own)[0] if isinstance(total, torch.Tensor) else None


def weights(y):
    """Other for each step, the same for each sequence and neuron."""
    return torch.linspace(0.5, 1.5, T, dtype=y.dtype)[: len(y)].reshape(-1, 1, 1)


@pytest.mark.parametrize("how", ["llvm", "eager"])
@pytest.mark.parametrize("name", NEURONS)
def test_spikes_states_and_gradients_are_those_of_each_sequence_alone(name, how):
    neuron, x = NEURONS[name](), drive().requires_grad_()
    if neuron.program is None:
        how = "eager"
    y, last = spikeloom.run(neuron, x, lengths=LENGTHS, implementation=how)
    y = first(y)
    total = (y * weights(y)).sum() + sum(w.sum() for w in last if w.requires_grad)
    (gradient,) = torch.autograd.grad(total, x)
    assert len(last) == len(neuron.rest)
    assert bool(y.any())
    for i, (own, expected, states, _) in enumerate(alone(neuron, x, None, implementation=how)):
        length = LENGTHS[i]
        assert torch.equal(y[:length, i : i + 1], expected)
        assert not y[length:, i].any() and not gradient[length:, i].any()
        for found, wanted in zip(last, states, strict=True):
            assert torch.equal(found[i : i + 1], wanted)
        if length:
            found, wanted = gradient[:length, i : i + 1], gradients_alone(own, expected, states)
            if how == "eager":
                assert torch.equal(found, wanted)
            else:  # a kernel may fuse a product and a sum of gradients, here or there
                torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("how", ["llvm", "eager"])
def test_learned_parameters_get_the_sum_of_what_each_sequence_gives(how):
    tau = torch.nn.Parameter(torch.tensor(2.5, dtype=torch.float64))
    neuron, x = neurons.LIF(tau=tau), drive(torch.float64)
    y, _ = spikeloom.run(neuron, x, lengths=LENGTHS, implementation=how)
    (found,) = torch.autograd.grad(y.sum(), tau)
    each = [y for _, y, _, _ in alone(neuron, x, None, implementation=how)]
    (expected,) = torch.autograd.grad(sum(y.sum() for y in each), tau)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("name", ["LIF", "LI"])
def test_sums_and_means_are_taken_over_each_ones_own_steps(name, reduce, dtype):
    neuron, x = NEURONS[name](), drive(dtype)
    y, _ = spikeloom.run(neuron, x, lengths=torch.tensor(LENGTHS), reduce=reduce)
    assert y.dtype == dtype
    for i, (_, expected, _, _) in enumerate(alone(neuron, x, None, reduce=reduce)):
        assert torch.equal(y[i : i + 1], expected)


def test_a_recorded_state_stays_where_its_sequence_ended():
    neuron, x = neurons.Synaptic(0.5, 0.75), drive()
    _, (_, syn), seq = spikeloom.run(neuron, x, lengths=LENGTHS, record="syn")
    for i, (_, _, _, (expected,)) in enumerate(alone(neuron, x, None, record="syn")):
        assert torch.equal(seq[: LENGTHS[i], i : i + 1], expected)
        assert (seq[LENGTHS[i] :, i] == syn[i]).all()


def test_first_states_go_in_and_on():
    neuron, x = neurons.Synaptic(0.5, 0.75), drive()
    state = (torch.full((BATCH, N), 0.25), torch.full((BATCH, N), -0.5))
    y, last = spikeloom.run(neuron, x, state, lengths=LENGTHS)
    for i, (_, expected, states, _) in enumerate(alone(neuron, x, state)):
        assert torch.equal(y[: LENGTHS[i], i : i + 1], expected)
        for found, wanted in zip(last, states, strict=True):
            assert torch.equal(found[i : i + 1], wanted)


@pytest.mark.parametrize("how", ["llvm", "eager"])
def test_padding_is_not_read_whatever_it_is(how):
    tau = torch.nn.Parameter(torch.tensor(2.5))
    neuron, x = neurons.LIF(tau=tau), drive()
    spoilt = x.clone()
    for i, length in enumerate(LENGTHS):
        spoilt[length:, i] = float("nan") if i % 2 else float("inf")
    results = []
    for one in (x, spoilt):
        one.requires_grad_()
        y, (v,) = spikeloom.run(neuron, one, lengths=LENGTHS, implementation=how)
        results.append((y, v, *torch.autograd.grad(y.sum() + v.sum(), (one, tau))))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


def test_full_lengths_change_nothing():
    neuron, x = neurons.LIF(), drive()
    found, expected = (
        spikeloom.run(neuron, x, lengths=[T] * BATCH),
        spikeloom.run(neuron, x),
    )
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1][0], expected[1][0])


def test_parameters_of_each_step_are_read_by_their_step():
    neuron = spikeloom.Neuron(
        lambda x, state, p: (p.w * x, (state[0] + p.w * x,)),
        params={"w": PerStep(torch.linspace(1, 2, T))},
    )
    x = drive()
    y, _ = spikeloom.run(neuron, x, lengths=LENGTHS)
    own = torch.arange(T)[:, None, None] < torch.tensor(LENGTHS)[None, :, None]
    expected = torch.linspace(1, 2, T)[:, None, None] * x * own
    torch.testing.assert_close(y, expected)


def test_the_further_state_is_traced_once_and_no_copy_takes_it_along():
    neuron, x = neurons.LIF(), drive()
    spikeloom.run(neuron, x, lengths=LENGTHS)
    first_one = neuron._ending
    spikeloom.run(neuron, x, lengths=[3] * BATCH)
    assert neuron._ending is first_one
    assert neuron.state_names == ("v",)
    assert copy.deepcopy(neuron)._ending is None


def test_torch_compile_takes_them_along():
    neuron = neurons.LIF(tau=2.0)
    lengths = torch.tensor(LENGTHS)
    compiled = torch.compile(
        lambda x: spikeloom.run(neuron, x, lengths=lengths)[0], backend="eager", fullgraph=True
    )
    x = drive()
    assert torch.equal(compiled(x), spikeloom.run(neuron, x, lengths=lengths)[0])


@pytest.mark.parametrize(
    ("lengths", "error", "match"),
    [
        ([12, 13, 1, 1, 1], ValueError, r"must lie in 0\.\.12, .* got 13 for sequence 1; pad"),
        ([12, 1, 1, -2, 1], ValueError, r"must lie in 0\.\.12, .* got -2 for sequence 3"),
        (
            [12, 1],
            ValueError,
            r"one for each of the 5 sequences, \[5\], got \[2\]; x is time first",
        ),
        (torch.ones(5, 1, dtype=torch.int64), ValueError, r"\[5\], got \[5, 1\]"),
        (torch.ones(5), TypeError, r"whole numbers, got torch.float32; give a list of ints"),
        (torch.ones(5, dtype=torch.bool), TypeError, "whole numbers, got torch.bool"),
        ([1.0] * 5, TypeError, "whole numbers, got"),
        (7, TypeError, "whole numbers, got 7"),
        ("12345", TypeError, "whole numbers, got '12345'"),
        (torch.ones(5, dtype=torch.int64, device="meta"), TypeError, "must be on the CPU"),
    ],
)
def test_lengths_that_do_not_fit_are_named(lengths, error, match):
    with pytest.raises(error, match=match):
        spikeloom.run(neurons.LIF(), drive(), lengths=lengths)


def test_an_input_without_a_batch_has_no_lengths():
    with pytest.raises(ValueError, match="lengths: need an input with a batch axis"):
        spikeloom.run(neurons.LIF(), torch.ones(4), lengths=[4])


def test_neurons_of_complete_values_have_no_lengths():
    with pytest.raises(ValueError, match="lengths: OAT sums its input over time"):
        spikeloom.run(neurons.OAT(4, 1.0, 8.0), drive(), lengths=LENGTHS)


def test_an_unknown_record_is_refused_with_the_neurons_own_states():
    with pytest.raises(ValueError, match=r"record: LIF has the states \('v',\), got 'steps_left'"):
        spikeloom.run(neurons.LIF(), drive(), lengths=LENGTHS, record="steps_left")
