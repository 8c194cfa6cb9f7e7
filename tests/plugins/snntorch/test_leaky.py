"""Leaky beside snnTorch's own."""

import copy
import pickle

import pytest
import snntorch as snn
import torch
from snntorch import surrogate
from snntorch.functional import quant

from spikeloom.kernel import vocabulary
from spikeloom.neurons.surrogate import SuperSpike
from spikeloom.plugins import snntorch

MECHANISMS = ("subtract", "zero", "none")
every_reset = pytest.mark.parametrize("reset_delay", [True, False])
every_mechanism = pytest.mark.parametrize("reset_mechanism", MECHANISMS)


def drive(*shape, seed=0, scale=1.5):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def host_loop(lif, x, mem=None):
    """snnTorch's own neuron, step after step: spikes and potentials ``[T, ...]``."""
    mem = torch.zeros_like(x[0]) if mem is None else mem
    spk_rec, mem_rec = [], []
    for step in x:
        spk, mem = lif(step, mem)
        spk_rec.append(spk)
        mem_rec.append(mem)
    return torch.stack(spk_rec), torch.stack(mem_rec)


def equal(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0)


# --- Spikes and potentials --------------------------------------------------------------------


def test_a_decay_in_double_precision_counts_as_in_the_host():
    beta = torch.tensor(-0.2, dtype=torch.float64).exp()
    x = drive(50, 3)
    spk_rec, mem_rec = host_loop(snn.Leaky(beta=beta), x)
    spk, _, own_rec = snntorch.Leaky(beta=beta).sequence(x, record=True)
    equal(spk, spk_rec)
    equal(own_rec, mem_rec)


# 5
@every_reset
@every_mechanism
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 1.0])
def test_spikes_and_mem_equal_the_host_over_200_steps(beta, reset_mechanism, reset_delay):
    kw = {"beta": beta, "reset_mechanism": reset_mechanism, "reset_delay": reset_delay}
    x = drive(200, 3, 4)
    spk_rec, mem_rec = host_loop(snn.Leaky(**kw), x)
    assert 0.01 < spk_rec.mean() < 0.99
    spk, mem, own_rec = snntorch.Leaky(**kw).sequence(x, record=True)
    equal(spk, spk_rec)
    equal(own_rec, mem_rec)
    equal(mem, mem_rec[-1])


# 5
@every_reset
@every_mechanism
def test_single_steps_equal_the_host_from_a_given_mem(reset_mechanism, reset_delay):
    kw = {"beta": 0.8, "threshold": 0.7} | {"graded_spikes_factor": 3.0}
    kw |= {"reset_mechanism": reset_mechanism, "reset_delay": reset_delay}
    host, own, mem = snn.Leaky(**kw), snntorch.Leaky(**kw), drive(2, 3, seed=1)
    other = mem
    for x in drive(50, 2, 3):
        expected, mem = host(x, mem)
        spk, other = own(x, other)
        equal(spk, expected)
        equal(other, mem)


def test_without_delay_the_reset_is_not_made_twice():
    # Far above the threshold one subtraction is not enough, and the next step subtracts again.
    kw = {"beta": 1.0, "reset_delay": False}
    x = torch.tensor([[3.5], [0.0], [-2.0], [0.0], [0.0]])
    spk_rec, mem_rec = host_loop(snn.Leaky(**kw), x)
    spk, _, own_rec = snntorch.Leaky(**kw).sequence(x, record=True)
    equal(spk, spk_rec)
    equal(own_rec, mem_rec)


def test_per_neuron_parameters_equal_the_host():
    kw = {"beta": torch.tensor([0.2, 0.5, 0.99]), "threshold": torch.tensor([0.3, 1.0, 2.0])}
    x = drive(60, 2, 3)
    spk_rec, mem_rec = host_loop(snn.Leaky(**kw), x)
    spk, _, own_rec = snntorch.Leaky(**kw).sequence(x, record=True)
    equal(spk, spk_rec)
    equal(own_rec, mem_rec)


def test_parameters_per_channel_equal_the_host():
    beta = torch.tensor([0.1, 0.9])[:, None, None]
    x = drive(20, 2, 2, 3, 3)
    spk_rec, mem_rec = host_loop(snn.Leaky(beta), x)
    spk, mem = snntorch.Leaky(beta).sequence(x)
    equal(spk, spk_rec)
    equal(mem, mem_rec[-1])


# 6
@every_mechanism
def test_it_fires_strictly_above_the_threshold(reset_mechanism):
    x = torch.randint(-8, 17, (200, 2, 3), generator=torch.Generator().manual_seed(0)) / 8
    kw = {"beta": 0.5, "reset_mechanism": reset_mechanism}
    x[0] = 1.0
    spk_rec, mem_rec = host_loop(snn.Leaky(**kw), x)
    spk, _, own_rec = snntorch.Leaky(**kw).sequence(x, record=True)
    equal(spk, spk_rec)
    equal(own_rec, mem_rec)
    assert spk[0].sum() == 0
    assert (own_rec[0] == 1.0).all()


# 10
@pytest.mark.parametrize("beta", [-0.5, 1.5])
def test_beta_outside_of_zero_and_one_is_clamped_in_the_step(beta):
    x = drive(50, 2, 3)
    spk_rec, mem_rec = host_loop(snn.Leaky(beta), x)
    spk, mem = snntorch.Leaky(beta).sequence(x)
    equal(spk, spk_rec)
    equal(mem, mem_rec[-1])
    limit = min(max(beta, 0.0), 1.0)
    equal(snntorch.Leaky(limit).sequence(x), (spk, mem))
    assert snntorch.Leaky(beta).beta == beta


# 11
def test_the_graded_factor_scales_spikes_once_in_both_forms():
    x, own = drive(20, 2, 3), snntorch.Leaky(0.5, graded_spikes_factor=3.0)
    spk, _ = own.sequence(x)
    assert set(spk.unique().tolist()) == {0.0, 3.0}
    mem, steps = None, []
    for step in x:
        y, mem = own(step, torch.zeros(0) if mem is None else mem)
        steps.append(y)
    equal(torch.stack(steps), spk)


# 23
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_spikes_have_the_dtype_of_the_input(dtype):
    x = drive(20, 2, 3).to(dtype)
    spk, mem = snntorch.Leaky(0.5).sequence(x)
    assert spk.dtype == dtype
    assert mem.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    spk_rec, mem_rec = host_loop(snn.Leaky(0.5), x.to(mem.dtype))
    equal(spk, spk_rec.to(dtype))
    equal(mem, mem_rec[-1])


# --- Gradients --------------------------------------------------------------------------------

SPIKE_GRADS = {
    "default": lambda: None,
    "atan": lambda: surrogate.atan(alpha=1.5),
    "fast_sigmoid": lambda: surrogate.fast_sigmoid(slope=10),
    "sigmoid": lambda: surrogate.sigmoid(slope=3),
    "straight_through": surrogate.straight_through_estimator,
    "triangular": lambda: surrogate.triangular(threshold=0.5),
    "heaviside": surrogate.heaviside,
    "spike_rate_escape": lambda: surrogate.spike_rate_escape(beta=1, slope=2),
    "SFS": lambda: surrogate.SFS(slope=5, B=0.1),
    "custom": lambda: surrogate.custom_surrogate(lambda u, grad, spk: grad * u.cos()),
}
LEARNED = {"learn_beta": True, "learn_threshold": True, "learn_graded_spikes_factor": True}


def gradients(lif, call, x):
    """Gradients of a loss on every spike and on the last mem, at x and the parameters."""
    x = x.clone().requires_grad_()
    spk, mem = call(lif, x)
    weights = torch.linspace(-1, 1, spk.numel()).reshape(spk.shape)
    ((spk * weights).sum() + mem.square().sum()).backward()
    return {"x": x.grad} | {name: p.grad for name, p in lif.named_parameters()}


def host_call(lif, x):
    spk_rec, mem_rec = host_loop(lif, x)
    return spk_rec, mem_rec[-1]


def own_call(lif, x):
    return lif.sequence(x)


def assert_close(own, host):
    assert own.keys() == host.keys()
    for name, expected in host.items():
        # A sum over all neurons and steps is rounded in another order.
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(own[name], expected, rtol=1e-5, atol=1e-5 * scale, msg=name)


# 7, 8
@pytest.mark.parametrize("spike_grad", SPIKE_GRADS.values(), ids=SPIKE_GRADS)
def test_gradients_equal_the_host_for_every_spike_grad(spike_grad):
    kw = {"beta": 0.7, "graded_spikes_factor": 1.5, **LEARNED}
    x = drive(12, 2, 3, scale=1.0)
    expected = gradients(snn.Leaky(spike_grad=spike_grad(), **kw), host_call, x)
    assert expected["x"].abs().max() > 0
    assert_close(gradients(snntorch.Leaky(spike_grad=spike_grad(), **kw), own_call, x), expected)


# 7, 8
@every_reset
@every_mechanism
@pytest.mark.parametrize("implementation", ["llvm", "eager"])
def test_gradients_equal_the_host_in_every_mode(implementation, reset_mechanism, reset_delay):
    kw = {"beta": torch.tensor([0.3, 0.6, 0.9]), "threshold": 0.8, "graded_spikes_factor": 2.0}
    kw |= {"reset_mechanism": reset_mechanism, "reset_delay": reset_delay, **LEARNED}
    x = drive(12, 2, 3, scale=1.0)
    own = snntorch.Leaky(**kw, implementation=implementation)
    assert_close(gradients(own, own_call, x), gradients(snn.Leaky(**kw), host_call, x))


# 7
@every_reset
@pytest.mark.parametrize("fire", [vocabulary.sigmoid, torch.sigmoid], ids=["kernel", "eager"])
def test_gradcheck_with_a_smooth_spike(fire, reset_delay):
    kw = {"spike_grad": fire, "reset_delay": reset_delay, "reset_mechanism": "none", **LEARNED}
    own = snntorch.Leaky(torch.tensor(0.7).double(), **kw).double()
    assert (own.neuron.program is None) == (fire is torch.sigmoid)
    x, mem = drive(4, 2, 3).double().requires_grad_(), drive(2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(own.sequence, (x, mem))

    def of_parameters(beta, threshold, factor):
        names = ("beta", "threshold", "graded_spikes_factor")
        values = dict(zip(names, (beta, threshold, factor), strict=True))
        return torch.func.functional_call(own, values, (x[0].detach(), mem.detach()))

    values = [p.detach().clone().requires_grad_() for p in (own.beta, own.threshold)]
    factor = own.graded_spikes_factor.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(of_parameters, (*values, factor))


def test_surrogate_disable_passes_no_gradient_through_spikes():
    x = drive(6, 3).requires_grad_()
    own = snntorch.Leaky(0.5, surrogate_disable=True, spike_grad=surrogate.atan())
    assert own.neuron.program is not None
    spk, mem = own.sequence(x)
    equal(spk, host_loop(snn.Leaky(0.5, surrogate_disable=True), x)[0].detach())
    assert not spk.requires_grad
    assert torch.autograd.grad(mem.sum(), x)[0].all()


# 7
@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("state_quant", [False, torch.nn.Identity()], ids=["kernel", "eager"])
def test_a_loss_on_spikes_without_a_surrogate_is_refused_as_by_the_host(graded, state_quant):
    kw = {"learn_graded_spikes_factor": graded, "learn_beta": True, "state_quant": state_quant}
    x, found = drive(3).requires_grad_(), []
    for cls in (snn.Leaky, snntorch.Leaky):
        lif = cls(0.5, surrogate_disable=True, graded_spikes_factor=2.0, **kw)
        spk, mem = lif(x, torch.zeros(3))
        assert mem.requires_grad
        if graded:
            found.append(torch.autograd.grad(spk.sum(), lif.graded_spikes_factor)[0])
            continue
        with pytest.raises(RuntimeError, match="does not require grad"):
            spk.sum().backward()
    equal(*(found or (0.0, 0.0)))


# 8
def test_learned_values_are_parameters_and_others_buffers():
    fixed, learned = snntorch.Leaky(0.5), snntorch.Leaky(0.5, **LEARNED)
    names = {"beta", "threshold", "graded_spikes_factor"}
    assert not list(fixed.parameters())
    assert dict(fixed.named_buffers()).keys() == names | {"reset_mechanism_val"}
    assert dict(learned.named_parameters()).keys() == names
    assert all(getattr(fixed, name).shape == () for name in names)


def test_a_parameter_is_learned_and_may_be_shared():
    beta = torch.nn.Parameter(torch.tensor(0.5))
    first, second = snntorch.Leaky(beta), snntorch.Leaky(beta, learn_beta=True)
    assert first.beta is beta
    assert second.beta is beta


def test_an_integer_is_as_good_as_a_float():
    own = snntorch.Leaky(1, threshold=2)
    assert own.beta.dtype == own.threshold.dtype == torch.float32
    x = drive(20, 3, scale=3.0)
    equal(own.sequence(x)[0], host_loop(snn.Leaky(1, threshold=2), x)[0])


def test_training_changes_what_is_learned():
    own, x = snntorch.Leaky(0.5, learn_beta=True), drive(10, 4, 3)
    optimizer = torch.optim.SGD(own.parameters(), lr=0.01)
    before = own.sequence(x)[1].square().mean()
    before.backward()
    optimizer.step()
    assert own.beta != 0.5
    assert own.sequence(x)[1].square().mean() < before


# --- state_dict -------------------------------------------------------------------------------


# 9
@pytest.mark.parametrize("learned", [False, True])
@every_mechanism
def test_state_dicts_are_interchangeable_with_the_host(reset_mechanism, learned):
    kw = dict.fromkeys(LEARNED, learned)
    values = {"beta": 0.8, "threshold": 0.6, "graded_spikes_factor": 2.0}
    host = snn.Leaky(**values, reset_mechanism=reset_mechanism, **kw)
    x = drive(50, 2, 3)
    spk_rec, _ = host_loop(host, x)
    own = snntorch.Leaky(0.1, **kw)
    assert own.state_dict().keys() == host.state_dict().keys()
    own.load_state_dict(host.state_dict())
    assert own.reset_mechanism == reset_mechanism
    equal(own.sequence(x)[0], spk_rec.detach())

    twin = snn.Leaky(0.1, reset_mechanism=reset_mechanism, **kw)
    twin.load_state_dict(own.state_dict())
    equal(host_loop(twin, x)[0], spk_rec)


# 9
def test_mem_is_not_saved():
    own = snntorch.Leaky(0.5, init_hidden=True)
    own(drive(2, 3))
    assert "mem" not in own.state_dict()
    assert own.mem.shape == (2, 3)


def test_a_loaded_mechanism_is_followed_inside_a_network():
    def net(mechanism):
        return torch.nn.Sequential(
            torch.nn.Sequential(snntorch.Leaky(0.9, reset_mechanism=mechanism))
        )

    own = net("subtract")
    own.load_state_dict(net("zero").state_dict())
    assert own[0][0].reset_mechanism == "zero"


def test_an_unknown_loaded_mechanism_is_refused():
    state = snntorch.Leaky(0.9).state_dict() | {"reset_mechanism_val": torch.tensor(7)}
    with pytest.raises(ValueError, match=r"reset_mechanism_val .* 7"):
        snntorch.Leaky(0.9).load_state_dict(state)


def test_setting_the_mechanism_takes_effect():
    x, own = drive(50, 2, 3), snntorch.Leaky(0.9)
    own.reset_mechanism = "zero"
    assert own.reset_mechanism_val == 1
    equal(own.sequence(x)[0], host_loop(snn.Leaky(0.9, reset_mechanism="zero"), x)[0])
    with pytest.raises(ValueError, match="reset_mechanism"):
        own.reset_mechanism = "one"
    assert own.reset_mechanism == "zero"


# --- Functions of the user --------------------------------------------------------------------


# 26
@every_reset
@every_mechanism
def test_state_quant_is_applied_where_the_host_applies_it(reset_mechanism, reset_delay):
    # Not idempotent, so that the place and the number of its calls show.
    def shrink(mem):
        return torch.round(mem * 8) / 8 * 0.75

    kw = {"beta": 0.9, "state_quant": shrink, "reset_mechanism": reset_mechanism}
    kw["reset_delay"] = reset_delay
    x = drive(50, 2, 3, scale=2.0)
    spk_rec, mem_rec = host_loop(snn.Leaky(**kw), x)
    assert 0.01 < spk_rec.mean() < 0.99
    spk, _, own_rec = snntorch.Leaky(**kw).sequence(x, record=True)
    equal(spk, spk_rec)
    equal(own_rec, mem_rec)


# 26
def test_the_hosts_own_state_quant_trains():
    kw = {"beta": 0.9, "state_quant": quant.state_quant(num_bits=4), "learn_beta": True}
    x = drive(12, 2, 3)
    own = snntorch.Leaky(**kw)
    assert_close(gradients(own, own_call, x), gradients(snn.Leaky(**kw), host_call, x))
    assert own.neuron.program is None


# 26
def test_inhibition_is_refused_when_the_neuron_is_made():
    with pytest.raises(ValueError, match=r"inhibition=True .* use snntorch\.Leaky"):
        snntorch.Leaky(0.9, inhibition=True)


def test_an_unknown_spike_grad_runs_eager_and_says_so():
    own = snntorch.Leaky(0.9, spike_grad=surrogate.SSO())
    assert own.neuron.program is None
    assert "cannot be traced" in own.neuron.reason
    assert own.neuron.reason in repr(own)
    x = drive(20, 2, 3)
    equal(own.sequence(x)[0], host_loop(snn.Leaky(0.9), x)[0])
    with pytest.raises(RuntimeError, match="cannot be traced"):
        snntorch.Leaky(0.9, spike_grad=surrogate.SSO(), implementation="llvm").sequence(x)


def test_a_spike_grad_that_is_no_step_function_is_honoured_in_the_forward_pass():
    def ternary(u):
        return torch.sign(u + 1) * (u.abs() > 0.5)

    x = drive(30, 2, 3)
    spk_rec, mem_rec = host_loop(snn.Leaky(0.9, spike_grad=ternary), x)
    spk, mem = snntorch.Leaky(0.9, spike_grad=ternary).sequence(x)
    assert {-1.0, 1.0} <= set(spk.unique().tolist())
    equal(spk, spk_rec)
    equal(mem, mem_rec[-1])


def test_functions_written_in_the_words_of_a_step_run_in_the_kernel():
    own = snntorch.Leaky(
        0.9,
        spike_grad=lambda u: vocabulary.fire(u, SuperSpike(), strict=True),
        state_quant=lambda mem: vocabulary.rint(mem * 8.0) / 8.0,
    )
    assert own.neuron.program is not None
    x = drive(30, 2, 3)
    host = snn.Leaky(0.9, state_quant=lambda mem: torch.round(mem * 8) / 8)
    equal(own.sequence(x)[0], host_loop(host, x)[0])


def test_surrogates_of_spikeloom_are_accepted():
    assert snntorch.Leaky(0.9, spike_grad=SuperSpike()).neuron.surrogate == SuperSpike()


# 17
def test_a_neuron_with_a_spike_grad_of_the_host_pickles_and_copies():
    own = snntorch.Leaky(0.9, spike_grad=surrogate.fast_sigmoid(), reset_mechanism="zero")
    x = drive(20, 2, 3)
    for twin in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        equal(twin.sequence(x), own.sequence(x))
        twin.load_state_dict(snntorch.Leaky(0.1).state_dict())
        assert (twin.reset_mechanism, own.reset_mechanism) == ("subtract", "zero")


# --- Bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kw", "error", "message"),
    [
        ({"beta": "high"}, TypeError, "beta must be a number or a tensor, got 'high'"),
        ({"beta": None}, TypeError, "beta must be"),
        ({"beta": float("nan")}, ValueError, "Leaky: beta must be finite"),
        ({"threshold": 0.0}, ValueError, "threshold must be positive"),
        ({"threshold": -1}, ValueError, "threshold must be positive"),
        ({"threshold": torch.tensor([1.0, float("inf")])}, ValueError, "threshold must be"),
        ({"reset_mechanism": "none at all"}, ValueError, "'subtract', 'zero' or 'none'"),
        ({"spike_grad": "atan"}, TypeError, "spike_grad must be a surrogate"),
        ({"state_quant": 8}, TypeError, "state_quant must be a function or False, got 8"),
        ({"spike_grad": surrogate.atan(alpha=-1.0)}, ValueError, "alpha must be a positive"),
    ],
)
def test_bad_arguments_are_named(kw, error, message):
    with pytest.raises(error, match=message):
        snntorch.Leaky(**{"beta": 0.9, **kw})


def test_the_arguments_are_those_of_the_host_in_its_order():
    arguments = (0.9, 0.5, surrogate.sigmoid(), False, True, False, True, True, "zero", False, True)
    own = snntorch.Leaky(*arguments, 2.0, True, False)
    host = snn.Leaky(*arguments, 2.0, True, False)
    x = drive(2, 3)
    for mine, theirs in zip(own(x), host(x), strict=True):
        equal(mine, theirs)
    assert {n for n, _ in own.named_parameters()} == {n for n, _ in host.named_parameters()}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spike_grad", surrogate.fast_sigmoid()),
        ("reset_delay", False),
        ("state_quant", torch.round),
        ("inhibition", True),
    ],
)
def test_what_the_kernel_was_made_for_can_be_read_but_not_set(name, value):
    lif = snntorch.Leaky(0.9)
    before = lif.neuron
    with pytest.raises(AttributeError, match=name):
        setattr(lif, name, value)
    assert lif.neuron is before


@pytest.mark.parametrize("init_hidden", [False, True])
def test_attributes_that_are_read_are_those_of_the_host(init_hidden):
    settings = {"beta": 0.9, "surrogate_disable": True, "init_hidden": init_hidden}
    own, host = snntorch.Leaky(**settings), snn.Leaky(**settings)
    for name in ("surrogate_disable", "init_hidden", "reset_delay", "state_quant", "inhibition"):
        assert getattr(own, name) == getattr(host, name)


def test_the_spike_grad_of_one_neuron_makes_another_of_the_host():
    own = snntorch.Leaky(0.9, spike_grad=surrogate.fast_sigmoid(slope=10))
    x = torch.tensor([-0.5, 0.0, 0.5])
    host = snn.Leaky(0.9, spike_grad=own.spike_grad)
    gradients = []
    for fire in (own.spike_grad, host.spike_grad, surrogate.fast_sigmoid(slope=10)):
        u = x.clone().requires_grad_()
        fire(u).sum().backward()
        gradients.append(u.grad)
    equal(gradients[0], gradients[2])
    equal(gradients[1], gradients[2])


def test_a_mechanism_that_stays_leaves_the_neuron_as_it_is_when_loaded():
    lif = snntorch.Leaky(0.9, learn_threshold=True)
    with torch.no_grad():
        lif.threshold.fill_(-0.1)  # as training may leave it, in snnTorch too
    fresh = snntorch.Leaky(0.9, learn_threshold=True)
    neuron = fresh.neuron
    fresh.load_state_dict(lif.state_dict())
    fresh.load_state_dict(lif.state_dict())
    assert fresh.neuron is neuron
    equal(fresh.threshold, lif.threshold)


def test_repr_shows_what_was_loaded_after_a_move():
    lif = snntorch.Leaky(0.9).double()
    lif.load_state_dict(snntorch.Leaky(0.25).state_dict())
    assert "beta=0.25" in repr(lif)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_counts_of_events_are_taken_as_the_host_takes_them(dtype):
    x = torch.randint(0, 3, (9, 2, 3)).to(dtype)
    host, own, mem, state = snn.Leaky(0.8), snntorch.Leaky(0.8), torch.zeros(2, 3), None
    whole, _ = snntorch.Leaky(0.8).sequence(x)
    for now, spikes in zip(x, whole, strict=True):
        expected, mem = host(now, mem)
        spk, state = own(now, state)
        equal((spk, state), (expected, mem))
        equal(spikes, expected)
        assert spk.dtype == expected.dtype and state.dtype == mem.dtype


@pytest.mark.parametrize("cls", [snntorch.Leaky, snntorch.SpikingModule, snntorch.SignGD])
@pytest.mark.parametrize("method", ["fire", "mem_reset", "_base_state_function", "_base_zero"])
def test_a_method_that_the_host_calls_is_refused_in_a_subclass(cls, method):
    remedy = rf"Mine: {method} is never called.*spikeloom.Neuron.*plugins.snntorch.make"
    with pytest.raises(TypeError, match=remedy):
        type("Mine", (cls,), {method: lambda self, *args: None})
