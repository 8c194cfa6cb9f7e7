"""LIFBox beside Norse's own; H numbers are those of Norse's conformance list."""

import copy
import pickle

import norse.torch as snn
import pytest
import torch
from norse.torch import LIFBoxFeedForwardState, LIFBoxParameters, lif_box_feed_forward_step
from norse.torch.functional.lift import lift
from norse.torch.functional.reset import reset_subtract, reset_value
from torch import nn

import spikeloom
from spikeloom import neurons
from spikeloom.plugins import norse
from spikeloom.plugins.contract import grid, same


def own_reset(z, v, reset, th):
    """Half the threshold is subtracted, and a little leaks in."""
    return v - z * (0.5 * th + reset)


RESETS = pytest.mark.parametrize("reset", [reset_value, reset_subtract, own_reset])
METHODS = ("super", "triangle", "tanh", "circ", "heavi_erfc", "heaviside")


def parameters(dtype=torch.float32, **changed):
    """Values that no rounding can hide."""
    values = {"tau_mem_inv": 233.0, "v_leak": -0.3, "v_th": 0.7, "v_reset": -0.2}
    tensors = {name: torch.tensor(value, dtype=dtype) for name, value in values.items()}
    return LIFBoxParameters(**{**tensors, **changed})


def currents(*shape, seed=0):
    torch.manual_seed(seed)
    return torch.randn(shape) * 4


def in_norse(x, p, dt=0.001, start=None):
    """Norse's own step in a loop: spikes, and the potential after every step."""
    state = LIFBoxFeedForwardState(p.v_leak.detach() if start is None else start)
    spikes, potentials = [], []
    for now in x:
        z, state = lif_box_feed_forward_step(now, state, p, dt)
        spikes.append(z)
        potentials.append(state.v)
    return torch.stack(spikes), torch.stack(potentials)


@RESETS
@pytest.mark.parametrize("implementation", ["llvm", "eager"])
def test_spikes_and_potentials_equal_norse_to_the_last_bit(reset, implementation):
    """H 9."""
    p, x = parameters(reset_method=reset), currents(200, 3, 5)
    z, v = in_norse(x, p, dt=0.0013)
    assert 0.05 < z.mean() < 0.5
    options = {"dt": 0.0013, "implementation": implementation}
    spikes, state = norse.LIFBox(p, record_states=True, **options)(x)
    same(spikes, z)
    same(state.v, v)
    cell, state = norse.LIFBoxCell(p, **options), None
    for t, now in enumerate(x):
        spikes, state = cell(now, state)
        same(spikes, z[t])
        same(state.v, v[t])


@RESETS
@pytest.mark.parametrize("implementation", ["llvm", "eager"])
@pytest.mark.parametrize(("rate", "dt"), [(100.0, 0.001), (233.0, 0.001), (71.3, 0.004)])
def test_plain_numbers_are_parameters_like_tensors(rate, dt, implementation, reset):
    """H 9: 200 steps. Norse's step multiplies plain numbers in float64, its tensors in float32."""
    x = currents(200, 3, 5)
    tensors = parameters(tau_mem_inv=torch.tensor(rate), reset_method=reset)
    numbers = parameters(
        tau_mem_inv=rate, v_leak=-0.3, v_th=0.7, v_reset=-0.2, alpha=100.0, reset_method=reset
    )
    options = {"dt": dt, "record_states": True, "implementation": implementation}
    spikes, state = norse.LIFBox(numbers, **options)(x)
    z, v = in_norse(x, tensors, dt)
    same(spikes, z)
    same(state.v, v)
    z, v = in_norse(x, numbers, dt, start=torch.full((3, 5), -0.3))
    assert 0.02 < z.mean() < 0.7
    same(spikes, z)
    torch.testing.assert_close(state.v, v, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cls", [norse.LIFBox, norse.LIFBoxCell])
def test_time_step_and_time_constant_act_as_their_product(cls):
    """H 9: over 200 steps, twice the rate in half the time step changes nothing."""
    x = currents(200, 3, 5)

    def run(rate, dt):
        module = cls(parameters(tau_mem_inv=rate), dt)
        return snn.Lift(module)(x)[0] if cls is norse.LIFBoxCell else module(x)[0]

    expected = run(128.0, 2.0**-9)
    assert 0.02 < expected.mean() < 0.5
    same(run(256.0, 2.0**-10), expected)
    assert not torch.equal(run(128.0, 2.0**-10), expected)
    assert not torch.equal(run(256.0, 2.0**-9), expected)


@RESETS
def test_per_neuron_parameters_equal_norse(reset):
    """H 9."""
    p = parameters(
        tau_mem_inv=torch.tensor([50.0, 150.0, 350.0]),
        v_leak=torch.tensor([0.1, -0.2, 0.3]),
        v_th=torch.tensor([0.5, -0.1, 1.0]),
        reset_method=reset,
    )
    x = currents(100, 4, 3)
    module = norse.LIFBox(p, record_states=True)
    z, v = in_norse(x, p)
    spikes, state = module(x)
    same(spikes, z)
    same(state.v, v)
    assert list(module.state_dict()) == ["tau_mem_inv", "v_leak", "v_th"]
    assert not list(module.parameters())


def test_norses_own_cell_is_equalled_with_its_defaults():
    """H 9 and 11: the same first state, made by either side."""
    x = currents(50, 2, 3) * 3
    theirs, ours = snn.LIFBoxCell(), norse.LIFBoxCell()
    z, last = snn.Lift(theirs)(x)
    spikes, state = snn.Lift(ours)(x)
    same(spikes, z.detach())
    same(state.v, last.v.detach())
    first = theirs.initial_state(x[0])
    same(ours(x[0], first)[1].v, ours(x[0])[1].v)
    assert type(state) is type(last)


def test_parameters_of_one_element_serve_all_neurons():
    """H 9 and 15: the parameters of Norse's own test of compilation."""
    values = {"tau_mem_inv": 1000.0, "v_leak": 0.0, "v_th": 1.0, "v_reset": 0.0, "alpha": 0.0}
    p = LIFBoxParameters(**{name: torch.tensor([value]) for name, value in values.items()})
    x = torch.ones(2, 1)
    compiled = torch.compile(norse.LIFBoxCell(p), fullgraph=True, backend="aot_eager")
    _, state = compiled(x)
    spikes, state = compiled(x, state)
    same(spikes, torch.zeros(2, 1))
    same(state.v, torch.ones(2, 1))


def test_the_threshold_itself_does_not_fire():
    """H 9."""
    p = LIFBoxParameters(tau_mem_inv=torch.tensor(1000.0))
    above = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    x = torch.stack([torch.tensor(1.0), above])[None]
    same(norse.LIFBox(p)(x)[0], torch.tensor([[0.0, 1.0]]))


@pytest.mark.parametrize("subtract", [False, True])
def test_an_independent_loop_in_float64_agrees(subtract):
    """H 9: dt / tau = 1/2 and inputs in eighths leave nothing to round."""
    reset = reset_subtract if subtract else reset_value
    p = LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), reset_method=reset)
    x = grid(20, 30)
    v, spikes = [0.0] * 30, []
    for now in x.tolist():
        h = [(a + b) / 2 for a, b in zip(v, now, strict=True)]
        s = [float(a > 1) for a in h]
        v = [(a - 1 if subtract else 0.0) if b else a for a, b in zip(h, s, strict=True)]
        spikes.append(s)
    y, state = norse.LIFBox(p)(x)
    assert 0 < y.mean() < 1
    same(y, torch.tensor(spikes))
    torch.testing.assert_close(state.v.double(), torch.tensor(v).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reset", [reset_value, reset_subtract])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_equal_those_of_the_installed_norse(method, reset, dtype):
    """H 9: to the input, the state and all four parameters, with the surrogate of each method."""
    alpha = torch.tensor(1.5)
    x, v = currents(12, 2, 3).to(dtype), currents(2, 3, seed=1).to(dtype)
    weights = currents(12, 2, 3, seed=2).to(dtype)

    def leaves():
        p = parameters(dtype, method=method, alpha=alpha, reset_method=reset)
        return p._replace(**{name: getattr(p, name).requires_grad_() for name in p._fields[:4]})

    theirs = leaves()
    x0, v0 = x.clone().requires_grad_(), v.clone().requires_grad_()
    z, states = in_norse(x0, theirs, start=v0)
    ((z * weights).sum() + states[-1].sum()).backward()

    module = norse.LIFBox(leaves())
    x1, v1 = x.clone().requires_grad_(), v.clone().requires_grad_()
    y, state = module(x1, LIFBoxFeedForwardState(v1))
    ((y * weights).sum() + state.v.sum()).backward()

    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-6, "atol": 1e-8}
    same(y.detach(), z.detach())
    same(state.v.detach(), states[-1].detach())
    torch.testing.assert_close(x1.grad, x0.grad, **close)
    torch.testing.assert_close(v1.grad, v0.grad, **close)
    for name in theirs._fields[:4]:
        expected = getattr(theirs, name).grad
        got = getattr(module, name).grad
        if expected is None:
            expected = torch.zeros_like(got)
        torch.testing.assert_close(got, expected, **close)


def test_learned_values_are_parameters_of_the_module():
    """H 10."""
    tau = nn.Parameter(torch.tensor(200.0))
    v_th = torch.full((3,), 0.5, requires_grad=True)
    module = norse.LIFBox(LIFBoxParameters(tau_mem_inv=tau, v_th=v_th), dt=0.002)
    assert [name for name, _ in module.named_parameters()] == ["tau_mem_inv", "v_th"]
    assert module.tau_mem_inv is tau
    assert list(module.state_dict()) == ["tau_mem_inv", "v_th"]
    assert module.p._fields == LIFBoxParameters._fields
    assert type(module.p) is LIFBoxParameters
    assert module.p.tau_mem_inv is tau
    same(module.p.v_th, v_th)
    same(module.p.v_leak, torch.tensor(0.0))
    assert (module.p.method, module.p.reset_method, module.dt) == ("super", reset_value, 0.002)
    with torch.no_grad():
        tau.fill_(400.0)
    assert module.p.tau_mem_inv == 400.0
    same(module.double().p.v_th, torch.full((3,), 0.5).double())


def test_the_default_module_has_norses_empty_state_dict():
    """H 10: checkpoints of networks with Norse's cells load into ours."""
    assert list(norse.LIFBox().state_dict()) == list(snn.LIFBoxCell().state_dict()) == []


def test_one_parameter_may_serve_several_modules():
    tau = nn.Parameter(torch.tensor(200.0))
    p = LIFBoxParameters(tau_mem_inv=tau)
    net = snn.SequentialState(norse.LIFBox(p), norse.LIFBox(p))
    assert list(net.parameters()) == [tau]


def test_a_computed_value_is_refused_by_modules_and_taken_by_the_step():
    """H 12."""
    raw = torch.tensor(5.0, requires_grad=True)
    p = LIFBoxParameters(tau_mem_inv=raw.exp(), method="heaviside")
    with pytest.raises(ValueError, match=r"p\.tau_mem_inv: must be a leaf"):
        norse.LIFBox(p)
    _, state = norse.lif_box_feed_forward_step(torch.ones(3), None, p)
    state.v.sum().backward()
    torch.testing.assert_close(raw.grad, 3 * 0.001 * torch.tensor(5.0).exp())


@pytest.mark.parametrize("shape", [(), (3,)])
def test_the_first_state_is_the_leak_potential(shape):
    """H 11."""
    v_leak = torch.full(shape, -0.25)
    module = norse.LIFBoxCell(LIFBoxParameters(v_leak=v_leak))
    same(module.state_fallback(torch.ones(2, 3)).v, torch.full((2, 3), -0.25))
    _, state = module(torch.zeros(2, 3))
    same(state.v, torch.full((2, 3), -0.25))
    _, state = norse.lif_box_feed_forward_step(
        torch.zeros(2, 3), None, LIFBoxParameters(v_leak=v_leak)
    )
    same(state.v, torch.full((2, 3), -0.25))
    learned = norse.LIFBox(LIFBoxParameters(v_leak=nn.Parameter(v_leak)))
    with torch.no_grad():
        learned.v_leak.fill_(0.5)
    start = learned.state_fallback(torch.ones(4, 2, 3)).v
    same(start, torch.full((2, 3), 0.5))
    assert not start.requires_grad


def test_the_description_rests_at_its_leak_potential():
    assert neurons.LIFBox(v_leak=-0.5).rest == {"v": -0.5}
    assert neurons.LIFBox(v_leak=torch.tensor(-0.5, requires_grad=True)).rest == {"v": -0.5}
    assert neurons.LIFBox(v_leak=torch.full((3,), -0.5)).rest == {"v": 0.0}
    neuron = neurons.LIFBox(v_leak=-0.5, reset_method="subtract", v_reset=0.1)
    twin = neurons.LIFBox(**neuron.settings())
    assert repr(twin) == repr(neuron)
    same(spikeloom.run(twin, currents(9, 3)), spikeloom.run(neuron, currents(9, 3)))


@pytest.mark.parametrize("reset", [reset_value, reset_subtract])
def test_the_step_needs_no_module(reset):
    """H 12."""
    p = parameters(reset_method=reset)
    x = currents(30, 2, 3)
    z, v = in_norse(x, p)
    state = None
    for t, now in enumerate(x):
        spikes, state = norse.lif_box_feed_forward_step(now, state, p, 0.001)
        same(spikes, z[t])
        same(state.v, v[t])
    assert type(state) is LIFBoxFeedForwardState


def test_the_step_can_be_lifted():
    """H 12."""
    p, x = parameters(), currents(30, 2, 3)
    spikes, state = lift(norse.lif_box_feed_forward_step, p)(x)
    expected, last = norse.LIFBox(p)(x)
    same(spikes, expected)
    same(state, last)
    again, state = lift(norse.lif_box_feed_forward_step)(x, p=p, state=last)
    same(again, norse.LIFBox(p)(x, last)[0])


def test_the_step_takes_numbers_and_tensors_of_any_precision():
    """H 12."""
    x = currents(2, 3)
    expected = norse.lif_box_feed_forward_step(x, None, parameters())
    same(norse.lif_box_feed_forward_step(x, None, parameters(torch.float64)), expected)
    numbers = LIFBoxParameters(tau_mem_inv=233.0, v_leak=-0.3, v_th=0.7, v_reset=-0.2, alpha=100)
    same(norse.lif_box_feed_forward_step(x, None, numbers), expected)
    same(norse.LIFBoxCell(numbers)(x), expected)


def test_the_step_compiles():
    """H 15: one break, behind which the description is looked up."""
    torch._dynamo.reset()
    x = currents(2, 3)
    compiled = torch.compile(norse.lif_box_feed_forward_step, backend="eager")
    same(compiled(x), norse.lif_box_feed_forward_step(x))


def test_ten_steps_of_training_change_every_parameter():
    """H 13."""
    learned = parameters(
        **{name: nn.Parameter(getattr(parameters(), name)) for name in LIFBoxParameters._fields[:4]}
    )
    module = norse.LIFBox(learned)
    before = copy.deepcopy(module.state_dict())
    x = currents(10, 8, 4)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(10):
        spikes, _ = module(x)
        loss = (spikes.mean(0) - 0.5).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(value != before[name] for name, value in module.state_dict().items())


@pytest.mark.parametrize("cls", [norse.LIFBox, norse.LIFBoxCell])
def test_modules_copy_and_pickle(cls):
    """H 3 and 15: Norse's parameter tuple itself cannot be pickled."""
    p = LIFBoxParameters(tau_mem_inv=nn.Parameter(torch.tensor(200.0)), reset_method=own_reset)
    module, x = cls(p), currents(5, 3).requires_grad_()
    y, state = module(x)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        same(twin(x)[0], y)
        assert twin.tau_mem_inv is not module.tau_mem_inv
        assert twin.p.reset_method is own_reset
    same(pickle.loads(pickle.dumps(state)).v, state.v)


def test_the_threshold_may_be_negative_millivolts():
    p = LIFBoxParameters(
        v_leak=torch.tensor(-65.0), v_th=torch.tensor(-50.0), v_reset=torch.tensor(-70.0)
    )
    x = currents(40, 6).abs() * 30
    z, v = in_norse(x, p)
    assert z.mean() > 0
    spikes, state = norse.LIFBox(p)(x)
    same(spikes, z)
    same(state.v, v[-1])


def test_wrong_arguments_are_named():
    for wrong in (snn.LIFParameters(), (100.0, 0.0), None):
        with pytest.raises(TypeError, match="p: must be Norse's LIFBoxParameters"):
            norse.LIFBox(wrong)
        with pytest.raises(TypeError, match="p: must be Norse's LIFBoxParameters"):
            norse.lif_box_feed_forward_step(torch.ones(3), None, wrong)
    cases = {
        "tau_mem_inv": {"tau_mem_inv": torch.tensor(-1.0)},
        "v_leak": {"v_leak": torch.tensor(float("nan"))},
        "LIFBox: v_th must be finite": {"v_th": torch.tensor(float("inf"))},
        "alpha": {"alpha": torch.tensor(float("nan"))},
        "reset_method: must be a function": {"reset_method": "zero"},
        "no such": {"method": "stairs"},
    }
    for message, values in cases.items():
        with pytest.raises(ValueError, match=message):
            norse.LIFBoxCell(LIFBoxParameters(**values))
    for dt in (0.0, -0.001, float("nan")):
        with pytest.raises(ValueError, match="dt"):
            norse.LIFBox(dt=dt)
    with pytest.raises(TypeError, match="must be a tuple of"):
        norse.LIFBoxCell()(torch.ones(2), snn.LIFFeedForwardState(torch.zeros(2), torch.zeros(2)))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_counts_of_events_are_taken_as_norse_takes_them(dtype):
    x = (torch.randint(0, 40, (9, 3, 5)) - 5).clamp(0).to(dtype)
    host, cell, state, own = snn.LIFBoxCell(), norse.LIFBoxCell(), None, None
    sequence = norse.LIFBox(record_states=True)(x)
    for now, z, v in zip(x, sequence[0], sequence[1].v, strict=True):
        step = norse.lif_box_feed_forward_step(now, state)
        expected, state = host(now, state)
        spikes, own = cell(now, own)
        for found in ((spikes, own), step, (z, LIFBoxFeedForwardState(v))):
            same(tuple(found), (expected, state))
            assert found[0].dtype == expected.dtype


@pytest.mark.parametrize("reset", [reset_value, reset_subtract])
def test_heaviside_spikes_have_no_gradient_as_in_norse(reset):
    p = parameters(method="heaviside", reset_method=reset)
    p = p._replace(tau_mem_inv=p.tau_mem_inv.requires_grad_())
    x, gradients = currents(6, 3).requires_grad_(), []
    for run in (norse.LIFBoxCell(p), norse.LIFBox(p), norse.lif_box_feed_forward_step):
        spikes, state = run(x, p=p) if run is norse.lif_box_feed_forward_step else run(x)
        assert spikes.any() and not spikes.requires_grad
        assert state.v.requires_grad
        with pytest.raises(RuntimeError, match="does not require grad"):
            spikes.sum().backward()
    for cell in (snn.LIFBoxCell(p), norse.LIFBoxCell(p)):
        (_, state), total = cell(x[0]), 0.0
        for now in x[1:]:
            _, state = cell(now, state)
            total = total + state.v.sum()
        gradients.append(torch.autograd.grad(total, x))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("cls", [norse.LIFBoxCell, norse.LIFBox])
def test_repr_names_every_parameter_and_the_time_step(cls):
    text = repr(cls(parameters(tau_mem_inv=torch.tensor(250.0)), dt=0.002))
    shown = "p=LIFBoxParameters(tau_mem_inv=250.0, v_leak="
    for part in (shown, "v_th=", "v_reset=", "method='super'", "alpha=", "dt=0.002"):
        assert part in text
    assert "reset_method=reset_value" in text and " at 0x" not in text


def test_repr_shows_values_as_learned():
    cell = norse.LIFBoxCell(parameters(v_th=torch.tensor(1.0, requires_grad=True)))
    with torch.no_grad():
        cell.v_th.fill_(1.5)
    assert "v_th=1.5 (learned)" in repr(cell)
