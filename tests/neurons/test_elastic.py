"""ElasticBiSpike against the published code's vectors, a float64 loop and SpikingJelly."""

import copy
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron as spikingjelly
from torch import nn

import spikeloom
from spikeloom import PerStep, SpikingLayer, plugins
from spikeloom.neurons import ElasticBiSpike
from tests.kernel import cuda_standin

GOLDEN = Path(__file__).parents[1] / "golden"
NEURON = np.load(GOLDEN / "spikelm_neuron.npz")
QUANTISER = np.load(GOLDEN / "spikelm_quantizer.npz")


def golden(data, case, *names):
    return [torch.tensor(data[f"{case}_{name}"]) for name in names]


def cases(data, last):
    return sorted(key.removesuffix(last) for key in data if key.endswith(last))


@pytest.fixture(params=["eager", "llvm", "cuda text"])
def implementation(request, monkeypatch):
    if request.param == "cuda text":
        cuda_standin.install(monkeypatch)
        return "auto"
    return request.param


@pytest.mark.parametrize("case", cases(NEURON, "_spike"))
def test_the_published_neuron_is_met_bit_for_bit(case, implementation):
    x, gout, alpha, mem, y, gx, galpha = golden(
        NEURON, case, "x", "gout", "alpha", "mem", "y", "gx", "galpha"
    )
    x.requires_grad_()
    neuron = ElasticBiSpike(alpha.requires_grad_())
    found, _, v = spikeloom.run(neuron, x, record="v", implementation=implementation)
    assert torch.equal(found, y)
    before = torch.cat([torch.zeros_like(v[:1]), v[:-1]])
    assert torch.equal((before + x).detach(), mem)
    found_gx, found_galpha = torch.autograd.grad(found, (x, alpha), gout)
    torch.testing.assert_close(found_gx, gx, rtol=1e-5, atol=1e-6)
    if not galpha.isnan().any():  # the release leaves it out where it froze alpha
        torch.testing.assert_close(found_galpha, galpha, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", [case for case in cases(QUANTISER, "_gout") if case[:2] == "b2"])
def test_the_published_quantiser_is_met_bit_for_bit(case, implementation):
    x, gout, alpha, y, gx, galpha = golden(
        QUANTISER, case, "x", "gout", "alpha", "y", "gx", "galpha"
    )
    x.requires_grad_()
    alpha.requires_grad_()  # a learned amplitude may have become negative: then 1e-5 is used
    neuron = ElasticBiSpike(torch.tensor(1.0), decay=0.0)
    found, _ = spikeloom.run(
        neuron, x[None], params={"alpha": alpha}, implementation=implementation
    )
    assert torch.equal(found[0], y)
    found_gx, found_galpha = torch.autograd.grad(found, (x, alpha), gout[None])
    assert torch.equal(found_gx, gx)
    torch.testing.assert_close(found_galpha, galpha, rtol=1e-5, atol=1e-5)


# --- An independent loop --------------------------------------------------------------------


class BiSpike(torch.autograd.Function):
    """One firing decision in float64, with the published gradient written out."""

    @staticmethod
    def forward(ctx, m, alpha, unit):
        ctx.save_for_backward(m, alpha)
        ctx.unit = unit
        spike = ((m > alpha / 2).double() - (m < -alpha / 2).double()).expand(m.shape)
        return spike.clone() if unit else alpha * spike

    @staticmethod
    def backward(ctx, grad):
        m, alpha = ctx.saved_tensors
        spike = (m > alpha / 2).double() - (m < -alpha / 2).double()
        near = (m.abs() <= alpha).double()
        if ctx.unit:
            to_m, to_alpha = near / alpha, -near * m / alpha**2
        else:
            to_m, to_alpha = near, torch.where(m.abs() > alpha, m.sign(), spike - m / alpha)
        return grad * to_m, (grad * to_alpha).sum_to_size(alpha.shape), None


def loop(x, v, alphas, decay, reset, unit=False):
    outputs = []
    for now, alpha in zip(x, alphas, strict=True):
        m = v + now
        y = BiSpike.apply(m, alpha, unit)
        spike = y.detach() if unit else (y / alpha).detach().round()
        left = alpha.detach() * (1 - spike) if reset == "released" else 1 - spike.abs()
        v = decay * m * left
        outputs.append(y)
    return torch.stack(outputs), v


@pytest.mark.parametrize("implementation", ["eager", "llvm"])
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("reset", ["released", "symmetric"])
@pytest.mark.parametrize("form", ["scalar", "step", "channel"])
def test_spikes_and_gradients_equal_a_float64_loop(form, reset, unit, implementation):
    x = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    v = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    shape = {"scalar": (), "step": (5,), "channel": (1, 4)}[form]
    alpha = (0.5 + torch.rand(shape, dtype=torch.float64)).requires_grad_()
    neuron = ElasticBiSpike(alpha, 0.4, reset, unit_spikes=unit, grad_scale=False)
    y, (w,) = spikeloom.run(neuron, x, (v,), implementation=implementation)
    alphas = alpha.unbind() if form == "step" else [alpha] * 5
    expected, expected_w = loop(x, v, alphas, 0.4, reset, unit)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(w, expected_w, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(y)
    found = torch.autograd.grad((y * weights).sum() + (w**2).sum(), (x, v, alpha))
    wanted = torch.autograd.grad((expected * weights).sum() + (expected_w**2).sum(), (x, v, alpha))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.25, 0.8, 1.6, 2.5])
def test_the_symmetric_reset_is_spikingjellys_ternary_neuron(alpha):
    x = torch.randn(6, 4, 50)
    host = spikingjelly.TernaryLIFNode(
        tau=4 / 3, decay_input=False, v_threshold=alpha / 2, v_reset=0.0, step_mode="m"
    )
    y, _, v = spikeloom.run(ElasticBiSpike(alpha, reset="symmetric"), x, record="v")
    m = torch.cat([torch.zeros_like(v[:1]), v[:-1]]) + x
    assert float(((m.abs() / alpha - 0.5).abs()).min()) > 1e-6  # no tie in these data
    torch.testing.assert_close(y, alpha * host(x))


def test_on_an_exact_tie_spikingjelly_fires_and_this_neuron_does_not():
    x = torch.tensor([[0.5, -0.5, 0.500001]])
    y, _ = spikeloom.run(ElasticBiSpike(1.0), x)
    assert y.abs().tolist() == [[0.0, 0.0, 1.0]]
    host = spikingjelly.TernaryLIFNode(4 / 3, False, v_threshold=0.5, step_mode="m")
    assert host(x).tolist() == [[1.0, -1.0, 1.0]]


def test_the_released_reset_forgets_after_plus_and_doubles_after_minus():
    _, (v,) = spikeloom.run(ElasticBiSpike(1.0), torch.tensor([[3.0, 0.25, -3.0]]))
    assert v.tolist() == [0.0, 0.0625, -1.5]
    _, (v,) = spikeloom.run(
        ElasticBiSpike(1.0, reset="symmetric"), torch.tensor([[3.0, 0.25, -3.0]])
    )
    assert v.abs().tolist() == [0.0, 0.0625, 0.0]


def test_negative_membranes_run_away_above_amplitude_two():
    x = torch.full((40, 1), -2.0)
    for reset, bound in (("released", 100.0), ("symmetric", 2.0)):
        _, (v,) = spikeloom.run(ElasticBiSpike(2.5, reset=reset), x)
        assert (float(v.abs()) > bound) == (reset == "released")


# --- The amplitude's gradient ---------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["eager", "llvm"])
def test_the_amplitude_gradient_is_scaled_by_the_neurons_of_a_step(implementation):
    x, grads = torch.randn(3, 4, 9), []
    for scaled in (True, False):
        alpha = nn.Parameter(torch.tensor([0.7, 0.9, 1.1]))
        neuron = ElasticBiSpike(alpha, grad_scale=scaled)
        y, _ = spikeloom.run(neuron, x, implementation=implementation)
        (y * x.sin()).sum().backward()
        grads.append(alpha.grad)
    torch.testing.assert_close(grads[0], grads[1] / 6.0)
    assert grads[1].abs().min() > 0


def test_only_a_parameter_learns():
    x = torch.randn(2, 5, requires_grad=True)
    table = torch.tensor([0.5, 0.6])
    for alpha in (0.5, table):
        spikeloom.run(ElasticBiSpike(alpha), x)[0].sum().backward()
    assert table.grad is None


def through_layer(neuron, x):
    layer = SpikingLayer(neuron)
    return layer, layer(x)


def through_spikingjelly(neuron, x):
    node = plugins.spikingjelly.ElasticBiSpikeNode(**neuron.settings(), step_mode="m")
    return node, node(x)


def through_snntorch(neuron, x):
    module = plugins.snntorch.ElasticBiSpike(**neuron.settings(), time_first=True)
    return module, module(x)[0]


def through_norse(neuron, x):
    module = plugins.norse.ElasticBiSpike(**neuron.settings())
    return module, module(x)[0]


HOSTS = [through_layer, through_spikingjelly, through_snntorch, through_norse]


@pytest.mark.parametrize("through", HOSTS)
def test_every_host_yields_the_published_spikes_and_gradients(through):
    x, gout, alpha, y, gx, galpha = golden(
        NEURON, "T4_avary", "x", "gout", "alpha", "y", "gx", "galpha"
    )
    module, found = through(ElasticBiSpike(nn.Parameter(alpha)), x.requires_grad_())
    assert torch.equal(found, y)
    found.backward(gout)
    torch.testing.assert_close(x.grad, gx, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(module.alpha.grad, galpha, rtol=1e-5, atol=1e-5)
    assert list(module.state_dict()) == ["alpha"]


def test_single_steps_of_every_host_equal_the_sequence():
    x = torch.randn(4, 3, 5)
    y, _ = spikeloom.run(ElasticBiSpike(0.8), x)
    node = plugins.spikingjelly.ElasticBiSpikeNode(0.8)
    assert torch.equal(torch.stack([node(now) for now in x]), y)
    for step in (plugins.snntorch.ElasticBiSpike(0.8), plugins.norse.ElasticBiSpikeCell(0.8)):
        state, found = None, []
        for now in x:
            spikes, state = step(now, state)
            found.append(spikes)
        assert torch.equal(torch.stack(found), y)


def test_the_amplitude_gradient_exists_under_func_grad_and_compile():
    x, alpha = torch.randn(3, 6), torch.tensor([0.5, 0.8, 1.2])

    def loss(alpha):
        y, _ = spikeloom.run(NEURON_FOR_FUNC, x, params={"alpha": PerStep(alpha)})
        return (y * x).sum()

    wanted = torch.autograd.grad(loss(alpha.requires_grad_()), alpha)[0]
    torch.testing.assert_close(torch.func.grad(loss)(alpha.detach()), wanted)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(alpha), alpha)[0]
    torch.testing.assert_close(found, wanted)


NEURON_FOR_FUNC = ElasticBiSpike([1.0, 1.0, 1.0])


# --- Edges ----------------------------------------------------------------------------------


def test_unit_spikes_are_the_spikes_without_their_amplitude():
    x = torch.randn(4, 2, 30)
    alpha = torch.tensor([0.3, 0.9, 1.4, 0.6])
    for reset in ("released", "symmetric"):
        y, (v,) = spikeloom.run(ElasticBiSpike(alpha, reset=reset), x)
        s, (w,) = spikeloom.run(ElasticBiSpike(alpha, reset=reset, unit_spikes=True), x)
        assert set(s.unique().tolist()) == {-1.0, 0.0, 1.0}
        assert torch.equal(s * alpha[:, None, None], y) and torch.equal(v, w)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_keep_their_type(dtype):
    x = torch.randint(-8, 9, (3, 7)).to(dtype) / 8
    wide, _ = spikeloom.run(ElasticBiSpike(0.5), x.double())
    y, (v,) = spikeloom.run(ElasticBiSpike(0.5), x)
    assert y.dtype == dtype and torch.equal(y.double(), wide)
    assert v.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_empty_single_and_strided_sequences():
    neuron = ElasticBiSpike(0.5)
    assert spikeloom.run(neuron, torch.zeros(0, 3))[0].shape == (0, 3)
    assert spikeloom.run(neuron, torch.zeros(4, 0))[0].shape == (4, 0)
    x = torch.randn(6, 4).T
    assert torch.equal(
        spikeloom.run(neuron, x)[0], spikeloom.run(neuron, x.clone().contiguous())[0]
    )
    learned = ElasticBiSpike(nn.Parameter(torch.tensor(0.5)))
    spikeloom.run(learned, torch.zeros(4, 0))[0].sum().backward()
    assert learned.params["alpha"].grad == 0.0


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        spikeloom.run(ElasticBiSpike(0.5), torch.tensor([[math.nan]]))


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"alpha": 0.0}, ValueError, "alpha must be positive and finite, got 0"),
        ({"alpha": -0.5}, ValueError, "alpha must be positive and finite, got -0.5"),
        ({"alpha": math.nan}, ValueError, "alpha must be positive and finite"),
        ({"alpha": math.inf}, ValueError, "alpha must be positive and finite"),
        ({"alpha": [1.0, 0.0]}, ValueError, "got 0 to 1$"),
        ({"alpha": "1"}, TypeError, "alpha must be a number or a tensor, got '1'"),
        ({"alpha": 1.0, "decay": 1.5}, ValueError, "decay must lie in"),
        ({"alpha": 1.0, "decay": "0"}, TypeError, "decay must be a number"),
        (
            {"alpha": 1.0, "reset": "hard"},
            ValueError,
            "one of 'released' or 'symmetric', got 'hard'",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ElasticBiSpike(**arguments)


@pytest.mark.parametrize("form", [list, torch.tensor, lambda row: PerStep(torch.tensor(row))])
def test_one_dimension_is_time_and_two_are_channels(form):
    """Also where there are as many channels as steps."""
    row, x = [0.25, 0.5, 1.0], torch.ones(3, 2, 3)
    table = ElasticBiSpike(form(row), decay=0.0)
    assert "alpha=PerStep([3])" in repr(table)
    assert spikeloom.run(table, x)[0][:, 0, 0].tolist() == row
    channels = ElasticBiSpike(torch.tensor(row)[None], decay=0.0)
    assert "alpha=tensor([1, 3])" in repr(channels)
    assert spikeloom.run(channels, x)[0][0, 0].tolist() == row


def test_a_table_of_the_wrong_length_is_refused():
    for channels in (2, 3):  # also if it is the number of channels
        with pytest.raises(ValueError, match="has 3 steps, the sequence has T=4"):
            spikeloom.run(ElasticBiSpike([1.0, 1.0, 1.0]), torch.zeros(4, channels))


def test_a_table_of_steps_has_one_dimension():
    with pytest.raises(ValueError, match=r"must have shape \[T\], got \[1, 3\]"):
        ElasticBiSpike(PerStep(torch.ones(1, 3)))


@pytest.mark.parametrize("alpha", [0.5, [0.5, 1.0], torch.full((1, 3), 0.7)], ids=str)
def test_it_copies_pickles_and_is_made_again_from_its_settings(alpha):
    neuron, x = ElasticBiSpike(alpha, 0.3, "symmetric"), torch.randn(2, 4, 3)
    y, _ = spikeloom.run(neuron, x)
    twins = (
        copy.deepcopy(neuron),
        pickle.loads(pickle.dumps(neuron)),
        ElasticBiSpike(**neuron.settings()),
    )
    for twin in twins:
        assert repr(twin) == repr(neuron)
        assert torch.equal(spikeloom.run(twin, x)[0], y)


def test_spikingjelly_counts_and_stores_signed_spikes():
    op_counter = pytest.importorskip("spikingjelly.activation_based.op_counter")
    node = plugins.spikingjelly.ElasticBiSpikeNode(0.5, step_mode="m")
    spikes, linear = node(torch.randn(3, 4, 8)).flatten(0, 1), nn.Linear(8, 5)
    rules = plugins.spikingjelly.signed_rules(op_counter.SynOpCounter)
    counter = op_counter.SynOpCounter(extra_rules=rules)
    with op_counter.DispatchCounterMode([counter]):
        linear(spikes)
    assert counter.get_total() == 5 * int((spikes != 0).sum())
    compressor = plugins.spikingjelly.SignedSpikeCompressor(bits=2, amplitude=0.5)
    assert torch.equal(compressor.decompress(compressor.compress(spikes)), spikes)
