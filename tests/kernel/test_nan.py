"""NaN stays NaN: no comparison turns an unknown potential into a spike or into silence."""

import math

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import Gated, Neuron, neurons
from spikeloom.kernel import vocabulary as words
from spikeloom.neurons import surrogate
from spikeloom.plugins import snntorch, spikingjelly
from tests.kernel import cuda_standin

NAN, INF = math.nan, math.inf
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture(params=["eager", "llvm", "cuda"])
def runner(request, monkeypatch):
    """Eager, the CPU kernel, or the CUDA text on a CPU, as an implementation's name."""
    if request.param == "cuda":
        cuda_standin.install(monkeypatch)
        return "llvm"
    return request.param


def evaluate(word, x, runner, **params):
    neuron = Neuron(lambda x, state, p: (word(x, p), ()), state=(), params=params, name="word")
    y, _ = spikeloom.run(neuron, x[None], implementation=runner)
    return y[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("strict", [False, True])
def test_the_spike_of_nan_is_nan_and_infinity_fires(dtype, strict, runner):
    u = torch.tensor([NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0], dtype=dtype)
    at_threshold = 0.0 if strict else 1.0
    expected = torch.tensor([NAN, 1.0, 0.0, at_threshold, at_threshold, 1.0, 0.0], dtype=dtype)
    for rule in (None, surrogate.ATan()):
        spikes = evaluate(lambda u, p: words.fire(u, rule, strict=strict), u, runner)  # noqa: B023
        assert torch.equal(spikes.isnan(), expected.isnan())
        # Divided by, a zero shows its sign.
        assert torch.equal(1 / spikes[1:], 1 / expected[1:])


@pytest.mark.parametrize(
    "word",
    [
        words.sign,
        words.relu,
        words.absolute,
        words.rint,
        words.floor,
        words.sqrt,
        words.exp,
        words.log,
        words.erf,
        words.sigmoid,
        words.tanh,
        words.detach,
        lambda a: words.clamp(a, -1.0, 1.0),
        lambda a: words.maximum(a, 1.0),
        lambda a: words.minimum(1.0, a),
        lambda a: words.with_grad(words.sign(a), (a, 1.0)),
        lambda a: words.with_nan(words.where(a > 0, 1.0, 0.0), a),
        lambda a: words.with_nan(0.5, a + 1.0),
    ],
)
def test_every_word_passes_nan_on(word, runner):
    x = torch.tensor([NAN, 0.5, NAN, 2.0])
    assert evaluate(lambda x, p: word(x), x, runner).isnan().tolist() == [True, False, True, False]


def test_the_sign_of_a_zero_is_zero(runner):
    x = torch.tensor([-0.0, 0.0, -2.0, INF])
    y = evaluate(lambda x, p: words.sign(x), x, runner)
    assert (1 / y).tolist() == [INF, INF, -1.0, 1.0]


def test_the_entry_of_a_row_that_is_nan_is_nan(runner):
    table = torch.tensor([[1.0], [2.0]], requires_grad=True)
    x = torch.tensor([1.0, NAN, 0.0])
    y = evaluate(lambda x, p: words.lookup(p.table, x), x, runner, table=Gated(table))
    assert y.isnan().tolist() == [False, True, False] and y[0] == 2.0 and y[2] == 1.0
    y.sum().backward()
    assert table.grad.tolist() == [[1.0], [1.0]]


def test_with_nan_looks_at_every_source_and_passes_gradients_elsewhere(runner):
    a = torch.tensor([1.0, NAN, 2.0, INF], requires_grad=True)

    def word(x, p):
        inverse = 1.0 / (x - 2.0)
        return words.with_nan(words.minimum(3.0 * x, 12.0), inverse - inverse, x + 1.0)

    y = evaluate(word, a, runner)
    assert y.isnan().tolist() == [False, True, True, False] and y[3] == 12.0
    y.sum().backward()
    assert a.grad.tolist() == [3.0, 0.0, 0.0, 0.0]


def test_with_nan_takes_plain_numbers():
    assert words.with_nan(1.0, 2.0) == 1.0
    assert math.isnan(words.with_nan(1.0, NAN))


RANGES = {"edges": [-4.0, 0.0, 4.0], "rises": [1.0, 2.0], "constants": [0.0, 0.0]}
NEURONS = [
    neurons.LIF(),
    neurons.LIF(tau=3.0, v_reset=None, decay_input=False, fires_at_threshold=False),
    neurons.LIF(v_reset=0.25, detach_reset=True),
    neurons.IF(),
    neurons.ParametricLIF(),
    *(
        neurons.Leaky(0.9, reset_mechanism=how, reset_delay=delay)
        for how in ("subtract", "zero", "none")
        for delay in (False, True)
    ),
    neurons.LIFBox(300.0),
    neurons.LIFBox(300.0, reset_method="subtract"),
    neurons.ElasticBiSpike(0.8),
    neurons.ElasticBiSpike(0.8, reset="symmetric", unit_spikes=True),
    neurons.Trace(0.5, 0.5),
    neurons.FewSpike([2.0, 1.0], [2.0, 1.0], [2.0, 1.0]),
    *(neurons.OAT(4, 1.0, 8.0, spikes=spikes) for spikes in ("weighted", "unit", "code")),
    neurons.OAT(4, 1.0, 8.0, tie="ge", rounding="nearest"),
    neurons.OAT(4, 1.0, 8.0).decoder(),
    neurons.LinearHG(**RANGES, steps=3),
    neurons.LinearHG(**RANGES, steps=3, strict=False),
    neurons.LinearHG(**RANGES, steps=3).as_table(),
    neurons.LinearHG(**RANGES, steps=3).decoder(),
    *(neurons.SignGD(function) for function in neurons.signgd_functions.FUNCTIONS),
    neurons.SignGDBits(0.0, 1.0),
    neurons.SignGDBits(0.0, 1.0, function="gelu"),
    neurons.SignTracker([1.0, 0.5, 0.25, 0.125], 4),
    neurons.AnalogEncoder(),
]


@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@pytest.mark.parametrize("how", ["eager", "cuda"])
def test_no_neuron_turns_nan_into_a_spike_or_into_silence(neuron, how, monkeypatch):
    """One NaN makes the outputs of its neuron NaN from its step on, and no other's."""
    if how == "cuda":
        cuda_standin.install(monkeypatch)
    runs = "eager" if how == "eager" else "llvm"
    steps, first = (1, 0) if neuron.begin else (4, 1)
    xs = [torch.rand(steps, 3) + 0.5 for _ in range(neuron.inputs)]
    for broken in range(neuron.inputs):
        given = [x.clone() for x in xs]
        given[broken][first, 1] = NAN
        y, _ = spikeloom.run(neuron, tuple(given), implementation=runs)
        whole, _ = spikeloom.run(neuron, tuple(xs), implementation=runs)
        after = slice(first, first + 1 if not neuron.rest else None)
        assert y[after, 1].isnan().all()
        assert torch.equal(y[:, ::2], whole[:, ::2]) and not whole.isnan().any()


def test_a_nan_amplitude_makes_no_spikes():
    alpha = torch.tensor(1.0)
    neuron = neurons.ElasticBiSpike(alpha)
    alpha.fill_(NAN)
    y, _ = spikeloom.run(neuron, torch.ones(2, 3), implementation="eager")
    assert y.isnan().all()


@pytest.mark.parametrize(
    "layer",
    [
        spikeloom.SpikingLayer(neurons.LIF(), implementation="eager"),
        spikingjelly.LIFNode(step_mode="m", implementation="eager"),
        # Functions of the hosts and of users fire as they please on numbers.
        spikingjelly.LIFNode(step_mode="m", surrogate_function=lambda u: (u >= 0).to(u)),
        nn.Sequential(snntorch.Leaky(0.9, spike_grad=lambda u: (u > 0).to(u), time_first=True)),
    ],
    ids=["SpikingLayer", "LIFNode", "own surrogate of LIFNode", "own spike_grad of Leaky"],
)
def test_a_layer_in_eager_mode_passes_nan_on(layer):
    x = torch.ones(3, 1, 2)
    x[1, 0, 0] = NAN
    y = layer(x)
    y = y[0] if isinstance(y, tuple) else y
    assert y[:, 0, 0].isnan().tolist() == [False, True, True] and not y[..., 1].isnan().any()


def test_a_last_state_that_is_nan_is_refused_by_the_cpu_kernel_alone():
    x = torch.tensor([[NAN]])
    with pytest.raises(ValueError, match="NaN after 1 steps"):
        spikeloom.run(neurons.LIF(), x)
    y, (v,) = spikeloom.run(neurons.LIF(), x, implementation="eager")
    assert y.isnan().all() and v.isnan().all()


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_error_says_that_a_hard_reset_of_infinity_is_nan(recurrent):
    lif = neurons.LIF(tau=2.0)
    layer = (
        spikeloom.Recurrent(lif, torch.zeros(1, 1)) if recurrent else spikeloom.SpikingLayer(lif)
    )
    with pytest.raises(ValueError, match=r"potential was infinite \(a hard reset takes inf \* 0"):
        layer(torch.tensor([[[INF]], [[0.0]]]))
    soft = spikeloom.SpikingLayer(neurons.IF(v_reset=None))
    assert soft(torch.tensor([[[INF]], [[0.0]]])).flatten().tolist() == [1.0, 1.0]
