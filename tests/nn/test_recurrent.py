"""Recurrent beside loops over the steps."""

import copy
import io
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikeloom
from spikeloom import compress, neurons, verify
from spikeloom.kernel import events, feedback

T, BATCH, N = 9, 5, 33


@pytest.fixture(autouse=True)
def events_in_small_layers(monkeypatch):
    monkeypatch.setattr(feedback, "WORTH_EVENTS", 0)


@pytest.fixture
def by_events(monkeypatch):
    """Counts the products that are taken by events."""
    calls, add = [], events.gather

    def counted(*arguments, **settings):
        calls.append(arguments)
        return add(*arguments, **settings)

    monkeypatch.setattr(events, "gather", counted)
    return calls


def layer(neuron=None, *, dtype=torch.float64, bias=True, **settings):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randint(-24, 25, (N, N)).to(dtype) / 32)
    bias = nn.Parameter(torch.randint(-8, 9, (N,)).to(dtype) / 32) if bias else False
    neuron = neurons.LIF(tau=2.0) if neuron is None else neuron
    return spikeloom.Recurrent(neuron, weight, bias, **settings)


def inputs(*shape, dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randint(-16, 65, shape or (T, BATCH, N)).to(dtype) / 32


def plain_loop(x, weight, bias):
    """LIF with tau = 2 and a hard reset, with nothing of spikeloom's."""
    v, s, found = torch.zeros_like(x[0]), torch.zeros_like(x[0]), []
    for now in x:
        current = now + s @ weight.t() + bias
        h = v + (current - v) / 2.0
        s = (h >= 1.0).to(x.dtype)
        v = (1.0 - s) * h
        found.append(s)
    return torch.stack(found), v


def eager(layer, x, spikes=None, state=None):
    """The same steps on tensors, each differentiated by autograd."""
    neuron = layer.neuron.neuron
    params = {name: getattr(layer, name) for name in neuron.tensor_params}
    y = torch.zeros_like(x[0]) if spikes is None else spikes
    found = []
    for now in x:
        current = now + F.linear(y, layer.weight, layer.bias)
        (y,), state = spikeloom.run(
            neuron, current[None], state, params=params, implementation="eager"
        )
        found.append(y)
    return torch.stack(found), state


@pytest.mark.parametrize("threshold", (0.0, 1.0))
def test_spikes_equal_a_plain_loop_to_the_bit(threshold, by_events):
    x, ours = inputs(), layer(events_up_to=threshold)
    with torch.no_grad():
        found, (v,) = ours.sequence(x)
        expected, last = plain_loop(x, ours.weight, ours.bias)
    assert 0.1 < expected.mean() < 0.9
    assert torch.equal(found, expected) and torch.equal(v, last)
    assert len(by_events) == (T - 1 if threshold else 0)


NEURONS = {
    "LIF": lambda: neurons.LIF(tau=2.5),
    "LIF with a soft reset": lambda: neurons.LIF(tau=2.5, v_reset=None),
    "learned time constant": lambda: neurons.LIF(
        tau=nn.Parameter(torch.tensor(2.5, dtype=torch.float64))
    ),
    "one threshold a neuron": lambda: neurons.Leaky(
        0.75, nn.Parameter(torch.linspace(0.5, 1.5, N, dtype=torch.float64))
    ),
    "ParametricLIF": lambda: neurons.ParametricLIF(),
    "ternary": lambda: neurons.ElasticBiSpike(0.75),
}


@pytest.mark.parametrize("threshold", (0.0, 1.0))
@pytest.mark.parametrize("name", NEURONS)
def test_gradients_are_those_of_the_loop_that_autograd_sees(name, threshold):
    ours = layer(NEURONS[name](), events_up_to=threshold).double()
    reference = copy.deepcopy(ours)
    torch.manual_seed(2)
    x = torch.randn(T, BATCH, N, dtype=torch.float64)
    spikes = (torch.rand(BATCH, N, dtype=torch.float64) < 0.2).double()
    state = tuple(torch.randn_like(spikes) for _ in ours.neuron.rest)
    gy, gv = torch.randn_like(x), torch.randn_like(spikes)
    results = []
    for module, call in ((ours, ours.sequence), (reference, lambda *a: eager(reference, *a))):
        leaves = [t.clone().requires_grad_() for t in (x, spikes, *state)]
        y, last = call(leaves[0], leaves[1], tuple(leaves[2:]))
        loss = (y * gy).sum() + sum((v * gv).sum() for v in last)
        grads = torch.autograd.grad(loss, (*leaves, *module.parameters()))
        results.append((y, *last, *grads))
    assert 0 < results[1][0].abs().mean() < 1
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("wanted", range(1, 16))
def test_only_wanted_gradients_are_computed(wanted):
    results = []
    for run in (lambda m, *a: m.sequence(*a), eager):
        ours = layer(events_up_to=0.5)
        x, spikes = inputs(), inputs(BATCH, N).clamp(0, 1).round()
        tensors = (x, spikes, ours.weight, ours.bias)
        leaves = [
            t
            for i, t in enumerate(tensors)
            if t.requires_grad_(bool(wanted >> i & 1)).requires_grad
        ]
        results.append(torch.autograd.grad(run(ours, x, spikes)[0].sum(), leaves))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_float32_is_within_rounding_of_float64():
    ours = layer(dtype=torch.float32, events_up_to=1.0)
    x = inputs(dtype=torch.float32).requires_grad_()
    exact, wide = copy.deepcopy(ours).double(), inputs().requires_grad_()
    found = torch.autograd.grad(ours(x).sum(), (x, *ours.parameters()))
    expected = torch.autograd.grad(exact(wide).sum(), (wide, *exact.parameters()))
    assert torch.equal(ours(x).double(), exact(wide))
    for a, b in zip(found, expected, strict=True):
        assert (a.double() - b).norm() <= 1e-6 * b.norm()


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_16_bits_round_what_returns_and_compute_states_in_float32(dtype):
    ours, x = layer(dtype=dtype), inputs(dtype=dtype)
    with torch.no_grad():
        y, (v,) = ours.sequence(x)
        spikes, state, expected = torch.zeros_like(x[0]), None, []
        for now in x:
            back = F.linear(spikes, ours.weight, ours.bias)
            current = now.float() + back.float()
            (spikes,), state = spikeloom.run(neurons.LIF(tau=2.0), current[None], state)
            spikes = spikes.to(dtype)
            expected.append(spikes)
    assert y.dtype == dtype and v.dtype == torch.float32
    assert torch.equal(y, torch.stack(expected)) and torch.equal(v, state[0])


STRIDED = {
    "time last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "every other": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "neurons slowest": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
}


@pytest.mark.parametrize("name", STRIDED)
def test_strides_make_no_difference(name):
    ours = layer()
    x, strided = inputs().requires_grad_(), STRIDED[name](inputs()).detach().requires_grad_()
    assert not strided.is_contiguous()
    gy = STRIDED[name](torch.randn(T, BATCH, N, dtype=torch.float64))
    found, expected = ours(strided), ours(x)
    assert torch.equal(found, expected)
    a, b = (
        torch.autograd.grad(y, (z, ours.weight), gy) for y, z in ((found, strided), (expected, x))
    )
    assert all(map(torch.equal, a, b))


@pytest.mark.parametrize("shape", ((0, BATCH, N), (T, 0, N), (1, BATCH, N), (T, N), (T, 2, 3, N)))
def test_every_shape_is_taken(shape):
    ours, x = layer(events_up_to=1.0), inputs(*shape).requires_grad_()
    y, (v,) = ours.sequence(x)
    assert y.shape == x.shape and v.shape == x.shape[1:]
    y.sum().backward()
    assert x.grad.shape == x.shape
    if y.numel():
        assert torch.equal(y, eager(ours, x)[0])


def test_a_sequence_goes_on_where_another_has_ended():
    ours, x = layer(), inputs()
    first, state = ours.sequence(x[:4])
    second, last = ours.sequence(x[4:], first[-1], state)
    whole, expected = ours.sequence(x)
    assert torch.equal(torch.cat((first, second)), whole) and torch.equal(last[0], expected[0])


def test_nothing_is_kept_where_no_gradient_is_needed():
    ours, x = layer(events_up_to=1.0), inputs()
    expected = ours(x)
    assert expected.requires_grad
    with torch.no_grad():
        found = ours(x)
    assert torch.equal(found, expected) and not found.requires_grad


def test_the_backward_pass_keeps_bits_of_the_spikes():
    ours, sizes = layer(neurons.LIF(tau=2.0, v_threshold=1.75), events_up_to=1.0), []

    def note(tensor):
        sizes.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = ours(inputs())
    assert not any(tensor.data_ptr() == y.data_ptr() for tensor in sizes)


def test_a_nan_is_refused_with_its_step():
    x = inputs()
    x[3, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN at step 3"):
        layer()(x)


def test_a_second_derivative_is_refused():
    ours, x = layer(), inputs().requires_grad_()
    (gradient,) = torch.autograd.grad(ours(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        gradient.sum().backward()


def test_a_graph_that_was_freed_is_explained():
    ours, x = layer(), inputs()
    loss = ours(x).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="reset it before"):
        loss.backward()


@pytest.mark.parametrize(
    "call",
    (
        lambda ours, x: torch.compile(ours, backend="eager")(x),
        lambda ours, x: torch.vmap(ours, 1, 1)(x),
        lambda ours, x: ours.eval()(x),
    ),
    ids=("torch.compile", "vmap", "eval"),
)
def test_followed_calls_fire_the_same_spikes(call):
    ours, x = layer(), inputs()
    assert torch.equal(call(ours, x), eager(ours, x)[0])


def test_eager_is_honoured():
    ours, x = layer(implementation="eager"), inputs()
    assert torch.equal(ours(x), eager(ours, x)[0])


def test_it_is_copied_saved_and_shown():
    ours, x = layer(neurons.LIF(tau=nn.Parameter(torch.tensor(2.0, dtype=torch.float64)))), inputs()
    assert sorted(ours.state_dict()) == ["bias", "tau", "weight"]
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for other in (copy.deepcopy(ours), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), ours(x))
    assert re.search(r"Recurrent\(LIF\(.*\), 33, bias=True", repr(ours))


def test_a_number_of_neurons_begins_as_a_linear_layer():
    torch.manual_seed(0)
    ours = spikeloom.Recurrent(neurons.LIF(), 50, True)
    assert ours.weight.shape == (50, 50) and ours.bias.shape == (50,)
    assert 0.13 < ours.weight.abs().max() <= 50**-0.5


REFUSED = {
    "no neuron": (lambda: spikeloom.Recurrent(nn.ReLU(), 3), TypeError, "neuron"),
    "no square": (lambda: layer_of(torch.zeros(2, 3)), ValueError, "square"),
    "no weight": (lambda: layer_of("3"), TypeError, "weight"),
    "no neurons": (lambda: layer_of(0), ValueError, "at least 1"),
    "integers": (lambda: layer_of(torch.ones(2, 2, dtype=torch.long)), TypeError, "int64"),
    "bias of another width": (
        lambda: spikeloom.Recurrent(neurons.LIF(), 3, torch.zeros(2)),
        ValueError,
        "bias",
    ),
    "events_up_to": (lambda: layer_of(3, events_up_to=2.0), ValueError, "events_up_to"),
    "few-spike": (lambda: spikeloom.Recurrent(neurons.OAT(), 3), ValueError, "step by step"),
    "another width": (lambda: layer_of(3)(torch.zeros(2, 4)), ValueError, r"\[T, \*, 3\]"),
    "no time": (lambda: layer_of(3)(torch.zeros(3)), ValueError, r"\[T, \*, 3\]"),
    "float64": (lambda: layer_of(3)(torch.zeros(2, 3).double()), TypeError, "convert"),
    "spikes of another shape": (
        lambda: layer_of(3).sequence(torch.zeros(2, 1, 3), torch.zeros(3)),
        ValueError,
        "spikes",
    ),
}


def layer_of(weight, **settings):
    return spikeloom.Recurrent(neurons.LIF(), weight, **settings)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_by_name(name):
    call, kind, said = REFUSED[name]
    with pytest.raises(kind, match=said):
        call()


# --- What others see of it ---


def network():
    torch.manual_seed(0)
    ours = spikeloom.Recurrent(neurons.LIF(tau=2.0, v_threshold=0.25), 8)
    return nn.Sequential(nn.Linear(6, 8), ours, nn.Linear(8, 3)).eval()


def test_energy_counts_what_it_fires_and_what_returns():
    net, x = network(), (torch.rand(20, 4, 6) < 0.3).float()
    with torch.no_grad():
        y = net[:2](x)
    assert y.any()
    table = str(verify.count_energy(net, x)).splitlines()
    fires, returns = (line.split() for line in table if "Recurrent" in line)
    assert float(fires[2]) == pytest.approx(y.sum().item() / 4, abs=0.01)
    assert float(returns[2]) == pytest.approx(y[:-1].sum().item() / 4, abs=0.01)
    assert float(returns[5]) == pytest.approx(8 * y[:-1].sum().item() / 4, abs=0.1)


def test_it_is_proved_free_of_multiplications():
    report = verify.check_mfi(network(), (torch.rand(20, 4, 6) < 0.3).float())
    assert "Multiplication free" in str(report)


def test_calibration_asks_for_the_trace_that_it_cannot_know():
    with pytest.raises(compress.UnknownNeuron, match="decay is not known"):
        compress.calibrate(network(), torch.rand(20, 4, 6))


def test_event_driven_leaves_it_as_it_is():
    net = network()
    assert type(spikeloom.event_driven(net)[1]) is spikeloom.Recurrent
    assert not hasattr(net[1], "threshold")


def test_a_gradient_that_is_negated_where_it_is_read_counts_with_its_sign():
    torch.manual_seed(30)
    ours, x = layer(), inputs().requires_grad_()
    y = ours(x)
    gy = torch.randn_like(y)
    expected = torch.autograd.grad(y, (x, ours.weight), -gy, retain_graph=True)
    found = torch.autograd.grad(y, (x, ours.weight), torch._neg_view(gy))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    assert expected[0].count_nonzero()


# --- Many gradients at once ---


def batched(y, x, grads):
    return torch.autograd.grad(y, x, grads, is_grads_batched=True, retain_graph=True)[0]


def mapped(y, x, grads):
    def one(g):
        return torch.autograd.grad(y, x, g, retain_graph=True)[0]

    return torch.vmap(one)(grads)


@pytest.mark.parametrize("how", [batched, mapped])
def test_many_gradients_at_once_are_refused_with_the_remedy(how):
    torch.manual_seed(31)
    layer = spikeloom.Recurrent(neurons.LIF(tau=2.0), torch.randn(5, 5))
    x = torch.randn(4, 2, 5, requires_grad=True)
    grads = torch.randn(3, 4, 2, 5)
    y = layer(x)
    with pytest.raises(NotImplementedError, match=r"is_grads_batched.*implementation='eager'"):
        how(y, x, grads)
    expected = torch.stack([torch.autograd.grad(y, x, g, retain_graph=True)[0] for g in grads])
    jacobian = torch.func.jacrev(layer)(x)
    torch.testing.assert_close(torch.tensordot(grads, jacobian, 3), expected)
    layer.implementation = "eager"
    torch.testing.assert_close(how(layer(x), x, grads), expected)
