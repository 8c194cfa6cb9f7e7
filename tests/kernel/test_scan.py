"""The operator inside torch: autograd, vmap, compile, export, layouts, lengths, memory."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import spikeloom
from spikeloom.kernel.call import run_step
from spikeloom.kernel.vocabulary import fire
from spikeloom.neurons import LIF, Trace, surrogate
from tests.kernel.families import CASES

NEURON = LIF(tau=2.3, surrogate=surrogate.ATan())


def spikes(x, **kwargs):
    return spikeloom.run(NEURON, x, **kwargs)[0]


def run_and_grad(neuron, x, state=None, implementation="llvm"):
    x = x.detach().clone().requires_grad_()
    y, last = spikeloom.run(neuron, x, state, implementation=implementation)
    loss = (y * torch.linspace(-1, 1, max(1, y.numel())).cos()[: y.numel()].reshape(y.shape)).sum()
    loss = loss + sum((v * v).sum() for v in last)
    (grad,) = torch.autograd.grad(loss, x)
    return y, last, grad


def assert_equals_eager(neuron, x, state=None, tolerance=1e-5):
    found, expected = (run_and_grad(neuron, x, state, name) for name in ("llvm", "eager"))
    assert torch.equal(found[0], expected[0])
    for a, b in zip(found[1], expected[1], strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(found[2], expected[2], rtol=tolerance, atol=tolerance)


@settings(deadline=None, max_examples=40)
@given(
    steps=st.integers(0, 40),
    shape=st.lists(st.integers(0, 9), min_size=0, max_size=3),
    seed=st.integers(0, 2**16),
    tau=st.floats(1.0, 20.0),
    soft=st.booleans(),
    strict=st.booleans(),
)
def test_any_shape_and_length_equals_eager(steps, shape, seed, tau, soft, strict):
    torch.manual_seed(seed)
    neuron = LIF(tau=tau, v_reset=None if soft else 0.0, fires_at_threshold=not strict)
    # A coarse grid, so that ties at the threshold happen.
    x = torch.randint(-8, 16, (steps, *shape)) / 4.0
    assert_equals_eager(neuron, x)


@pytest.mark.parametrize("steps", [15, 16, 17, 31, 32, 33, 200, 1000])
def test_long_sequences_recompute_segment_by_segment(steps):
    assert_equals_eager(LIF(tau=3.0, v_reset=None), torch.randn(steps, 70) + 0.5)


def test_thousands_of_steps_need_little_scratch():
    x = torch.randn(4000, 3) + 0.5
    assert_equals_eager(LIF(tau=3.0), x)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[::2],
        lambda x: x.flip(0)[1:],
        lambda x: x[:, 1:],
        lambda x: x[..., ::2],
        lambda x: x.transpose(1, 3),
        lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
        lambda x: x[:1].expand(6, -1, -1, -1),
        lambda x: x[:, :1].expand(-1, 5, -1, -1),
        lambda x: (
            x.flatten(0, 1).contiguous(memory_format=torch.channels_last_3d)
            if x.dim() == 6
            else x.permute(0, 1, 3, 4 - 2)
        ),
    ],
)
def test_any_memory_layout_equals_the_contiguous_one(view):
    x = view(torch.randn(6, 4, 6, 8) + 0.5)
    assert_equals_eager(NEURON, x)
    again = spikes(x.contiguous())
    assert torch.equal(spikes(x), again)


def test_channels_last_rows_are_read_and_written_without_a_copy():
    rows = torch.randn(3 * 4, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    x = rows.unflatten(0, (3, 4))
    assert not x.is_contiguous()
    y = spikes(x)
    assert y.stride() == x.stride()


@pytest.mark.parametrize("steps", [0, 1])
def test_no_steps_leave_the_state_as_it_is(steps):
    x, v = torch.randn(steps, 5), torch.randn(5)
    y, (last,) = spikeloom.run(NEURON, x, (v,))
    assert y.shape == (steps, 5)
    assert torch.equal(last, v) == (steps == 0)


def test_gradients_pass_through_zero_steps():
    x, v = torch.randn(0, 5, requires_grad=True), torch.randn(5, requires_grad=True)
    _, (last,) = spikeloom.run(NEURON, x, (v,))
    (last * 3).sum().backward()
    assert torch.equal(v.grad, torch.full((5,), 3.0))
    assert x.grad.shape == (0, 5)


def test_two_chunks_equal_one_run_with_gradients():
    x = torch.randn(12, 7)
    whole = run_and_grad(NEURON, x)
    leaf = x.clone().requires_grad_()
    first, state = spikeloom.run(NEURON, leaf[:5])
    second, last = spikeloom.run(NEURON, leaf[5:], state)
    y = torch.cat([first, second])
    assert torch.equal(y, whole[0])
    loss = (y * torch.linspace(-1, 1, y.numel()).cos().reshape(y.shape)).sum()
    (grad,) = torch.autograd.grad(loss + (last[0] ** 2).sum(), leaf)
    torch.testing.assert_close(grad, whole[2])


def test_only_the_inputs_are_kept_for_the_backward_pass():
    x = torch.randn(16, 1000, requires_grad=True)
    state = (torch.randn(1000),)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        spikeloom.run(NEURON, x, state)
    distinct = {t.data_ptr(): t.untyped_storage().nbytes() for t in kept}
    assert sum(distinct.values()) == x.nbytes + state[0].nbytes


def test_inference_keeps_nothing():
    kept = []
    x = torch.randn(4, 10, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        with torch.no_grad():
            spikes(x)
        with torch.inference_mode():
            spikes(x)
    assert not kept
    spikes(x).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("implementation", ["eager", "llvm"])
def test_reduced_outputs_equal_the_reduction_of_the_sequence(reduce, implementation):
    x = torch.randn(9, 33, requires_grad=True)
    y, last = spikeloom.run(NEURON, x, reduce=reduce, implementation=implementation)
    sequence, expected_last = spikeloom.run(NEURON, x, implementation="eager")
    expected = getattr(sequence, reduce)(0)
    torch.testing.assert_close(y, expected)
    assert torch.equal(last[0], expected_last[0])
    weights = torch.linspace(0, 1, 33)
    (found,) = torch.autograd.grad((y * weights).sum(), x)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), x)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["eager", "llvm"])
def test_a_recorded_state_is_the_state_after_each_step(implementation):
    x = torch.randn(6, 5, requires_grad=True)
    y, (last,), v = spikeloom.run(NEURON, x, record="v", implementation=implementation)
    for t in range(6):
        _, (after,) = spikeloom.run(NEURON, x[: t + 1])
        assert torch.equal(v[t], after)
    assert torch.equal(v[-1], last) and torch.equal(y, spikes(x))
    (found,) = torch.autograd.grad((v * v).sum(), x)
    (wanted,) = torch.autograd.grad(
        (spikeloom.run(NEURON, x, record="v", implementation="eager")[2] ** 2).sum(), x
    )
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_reduced_run_may_record_as_well():
    x = torch.randn(6, 5)
    total, (last,), v = spikeloom.run(NEURON, x, reduce="sum", record="v")
    assert torch.equal(total, spikes(x).sum(0)) and torch.equal(v[-1], last)


def test_the_number_of_threads_changes_nothing():
    threads = torch.get_num_threads()
    tau = torch.tensor(2.3, requires_grad=True)
    neuron, x = LIF(tau=tau, v_reset=None), torch.randn(16, 50_000)

    def gradients():
        y, _ = spikeloom.run(neuron, x.requires_grad_())
        weights = torch.linspace(-1, 1, 50_000)
        return (y, *torch.autograd.grad((y * weights).sum(), (x, tau)))

    try:
        results = []
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            results.append(gradients())
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("neurons", [524_288, 524_289])
def test_outputs_larger_than_the_cache_equal_eager(neurons):
    # Aligned rows are written past the cache, others are not.
    assert_equals_eager(NEURON, torch.randn(4, neurons) + 0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_outputs_have_the_input_dtype_and_states_the_computed_one(dtype):
    y, (v,) = spikeloom.run(NEURON, torch.randn(3, 4).to(dtype))
    assert y.dtype == dtype
    assert v.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_values_round_to_nearest_even(dtype):
    values = torch.linspace(-70000.0, 70000.0, 4099).double()
    inputs = torch.cat([values, values / 1e9, torch.tensor([0.0, -0.0, float("inf")])])
    x = inputs.to(dtype)[None]
    passed, _ = spikeloom.run(Trace(0.0), x)
    assert torch.equal(passed, x)
    halved, _ = spikeloom.run(Trace(0.5), torch.cat([x[:, :-1], x[:, :-1] / 3]))
    expected, _ = spikeloom.run(
        Trace(0.5), torch.cat([x[:, :-1], x[:, :-1] / 3]), implementation="eager"
    )
    assert torch.equal(halved, expected)


@pytest.mark.parametrize("value", [1e-45, 1e-38, 3e38, -3e38, 0.0, -0.0, 1.0])
def test_huge_and_tiny_inputs_equal_eager(value):
    x = torch.full((5, 33), value)
    y, (v,) = spikeloom.run(LIF(tau=2.0, v_reset=None), x)
    expected, (w,) = spikeloom.run(LIF(tau=2.0, v_reset=None), x, implementation="eager")
    assert torch.equal(y, expected) and torch.equal(v, w)


def test_a_value_on_the_threshold_fires_unless_the_neuron_is_strict():
    x = torch.ones(1, 3)
    assert spikeloom.run(LIF(tau=None), x)[0].sum() == 3
    assert spikeloom.run(LIF(tau=None, fires_at_threshold=False), x)[0].sum() == 0


def test_nan_is_reported_not_turned_into_silence():
    x = torch.randn(4, 5)
    x[1, 2] = float("nan")
    with pytest.raises(ValueError, match="NaN after 4 steps"):
        spikes(x)


def test_gradcheck_of_smooth_dynamics_in_float64():
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    decay = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    state = (torch.randn(4, dtype=torch.float64, requires_grad=True),)

    def trace(x, decay, v):
        y, (last,) = spikeloom.run(Trace(decay), x, (v,))
        return y, last

    assert torch.autograd.gradcheck(trace, (x, decay, state[0]))


def test_a_second_derivative_is_refused():
    x = torch.randn(4, 5, requires_grad=True)
    (grad,) = torch.autograd.grad(spikes(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("shown", ["outputs", "state"])
def test_gradients_that_do_not_arrive_count_as_zero(shown):
    x, v = torch.randn(6, 5), torch.randn(5)
    found = []
    for implementation in ("llvm", "eager"):
        leaves = [x.clone().requires_grad_(), v.clone().requires_grad_()]
        y, (last,) = spikeloom.run(NEURON, leaves[0], (leaves[1],), implementation=implementation)
        loss = (y * torch.arange(5.0)).sum() if shown == "outputs" else (last**2).sum()
        found.append(torch.autograd.grad(loss, leaves))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


# --- A call is followed by others, or by autograd alone ---


class Watch(TorchDispatchMode):
    """Notes the operators that are called."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_call_that_is_watched_equals_one_that_is_not(case):
    neuron, params = case.make(4, 6, torch.float32)
    x = tuple(torch.randn(4, 6, requires_grad=True) for _ in range(case.inputs))
    leaves = [*x, *params.values()]

    def values_and_gradients():
        y, last = spikeloom.run(neuron, x)
        ys = y if isinstance(y, tuple) else (y,)
        loss = sum((value * torch.linspace(-1, 1, 6)).sum() for value in (*ys, *last))
        return [*ys, *last, *torch.autograd.grad(loss, leaves, materialize_grads=True)]

    alone = values_and_gradients()
    with Watch() as watch:
        watched = values_and_gradients()
    assert {"spikeloom.scan.default", "spikeloom.scan_backward.default"} <= set(watch.seen)
    assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))


def test_a_profile_shows_the_operators():
    x = torch.randn(4, 5, requires_grad=True)
    with torch.autograd.profiler.profile() as profile:
        spikes(x).sum().backward()
    names = {event.name for event in profile.function_events}
    assert {"spikeloom::scan", "spikeloom::scan_backward"} <= names


@pytest.mark.parametrize("profiled", ["forward", "backward"])
@pytest.mark.parametrize("run", [spikeloom.run, run_step])
def test_a_checkpoint_may_be_profiled_in_one_of_its_runs_only(run, profiled):
    x, tau = torch.randn(4, 5, requires_grad=True), torch.tensor(2.0, requires_grad=True)

    def seen(now):
        return profile() if now == profiled else nullcontext()

    def gradients(y):
        return torch.autograd.grad(y.square().sum(), (x, tau))

    def layer(x):
        return run(LIF(tau, surrogate=surrogate.ATan()), x)[0]

    with seen("forward"):
        y = checkpoint(layer, x, use_reentrant=False)
    with seen("backward"):
        found = gradients(y)
    assert all(map(torch.equal, found, gradients(layer(x))))


def test_tensors_that_are_no_plain_memory_are_read_as_what_they_are():
    negated = torch.randn(4, 5, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    assert torch.equal(spikes(negated), spikes(negated.clone()))
    zeros = torch._efficientzerotensor(4, 5)
    assert torch.equal(spikes(zeros), torch.zeros(4, 5))
    left = []
    x = torch.randn(4, 5)
    torch.func.grad(lambda x: (left.append(x), x.sum())[1])(x)  # wrapped for good
    assert torch.equal(spikes(left[0]), spikes(x))


def test_mapped_gradients_equal_one_after_another():
    x, grads = torch.randn(4, 5, requires_grad=True), torch.randn(3, 4, 5)
    y = spikes(x)

    def back(grad):
        return torch.autograd.grad(y, x, grad, retain_graph=True)[0]

    torch.testing.assert_close(torch.vmap(back)(grads), torch.stack([back(g) for g in grads]))


@pytest.mark.parametrize("run", [spikeloom.run, run_step])
def test_gradients_batched_as_a_prototype_are_refused_with_the_remedy(run):
    x, grads = torch.randn(4, 5, requires_grad=True), torch.randn(3, 4, 5)
    y = run(NEURON, x)[0]
    with pytest.raises(NotImplementedError, match=r"is_grads_batched.*use torch\.vmap"):
        torch.autograd.grad(y, x, grads, is_grads_batched=True)


# --- What is kept between calls never shows ---


def shifted(x, state, p):
    (v,) = state
    return v + x * p.a, (v * p.b,)


def test_plus_and_minus_zero_are_told_apart():
    x = torch.full((2, 20), -0.0)
    for a, b in [(0.0, 0.0), (-0.0, 0.0), (0.0, -0.0), (-0.0, -0.0)] * 2:
        neuron = spikeloom.Neuron(shifted, state={"v": b}, params={"a": a, "b": 1.0})
        for state in (None, (torch.full((20,), b),), (torch.tensor(b).expand(20),)):
            y, (v,) = spikeloom.run(neuron, x, state)
            expected, (w,) = spikeloom.run(neuron, x, state, implementation="eager")
            assert torch.equal(1 / y, 1 / expected) and torch.equal(1 / v, 1 / w)


@settings(deadline=None, max_examples=30)
@given(calls=st.permutations(range(12)), seed=st.integers(0, 2**16))
def test_the_order_of_calls_of_every_kind_changes_nothing(calls, seed):
    torch.manual_seed(seed)
    tau = torch.nn.Parameter(torch.tensor(2.0))
    learned, fixed = LIF(tau=tau, v_reset=None), LIF(tau=3.0)
    for number in calls:
        dtype = (torch.float32, torch.float64, torch.bfloat16)[number % 3]
        x = (torch.randn(1 + 16 * (number % 2), 3 + 13 * (number % 4)) + 0.5).to(dtype)
        with torch.no_grad():
            tau.fill_(1.0 + number / 4)  # in place, as an optimiser does
        for neuron in (learned, fixed):
            found, (v,) = spikeloom.run(neuron, x)
            expected, (w,) = spikeloom.run(neuron, x, implementation="eager")
            assert torch.equal(found, expected) and torch.equal(v, w)


def test_calls_from_many_threads_equal_calls_from_one():
    inputs = [torch.randn(1 + i % 5, 8 + i, requires_grad=True) for i in range(40)]

    def work(x):
        y, (last,) = spikeloom.run(NEURON, x)
        return y, *torch.autograd.grad((y * y.shape[1]).sum() + last.sum(), x)

    with ThreadPoolExecutor(4) as pool:
        several = list(pool.map(work, inputs * 5))
    for found, expected in zip(several, [work(x) for x in inputs] * 5, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# --- torch.func, compile and export ---


def test_func_grad_and_vmap_equal_a_loop_over_samples():
    batch = torch.randn(6, 5, 3)

    def loss(x):
        return (spikes(x) * torch.linspace(0, 1, 3)).sum()

    each = [torch.func.grad(loss)(batch[:, i]) for i in range(5)]
    mapped = torch.vmap(torch.func.grad(loss), in_dims=1, out_dims=1)(batch)
    torch.testing.assert_close(mapped, torch.stack(each, 1))
    values = torch.vmap(spikes, in_dims=1, out_dims=1)(batch)
    assert torch.equal(values, torch.stack([spikes(batch[:, i]) for i in range(5)], 1))


def test_a_shared_parameter_has_one_gradient_per_sample():
    batch = torch.randn(6, 5, 3)
    neuron = LIF(tau=torch.tensor(2.0), v_reset=None)

    def loss(tau, x):
        y, _ = spikeloom.run(neuron, x, params={"tau": tau})
        return (y * torch.linspace(0, 1, 3)).sum()

    tau = torch.tensor(2.5)
    each = torch.stack([torch.func.grad(loss)(tau, batch[:, i]) for i in range(5)])
    mapped = torch.vmap(torch.func.grad(loss), in_dims=(None, 1))(tau, batch)
    torch.testing.assert_close(mapped, each)
    taus = torch.linspace(2.0, 4.0, 5)
    each = torch.stack([torch.func.grad(loss)(taus[i], batch[:, i]) for i in range(5)])
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss), in_dims=(0, 1))(taus, batch), each)


def test_vmap_over_a_per_neuron_parameter_equals_a_loop():
    x, taus = torch.randn(6, 3), torch.rand(5, 3) + 1.5
    neuron = LIF(tau=torch.ones(3) * 2, v_reset=None)

    def loss(tau):
        return (spikeloom.run(neuron, x, params={"tau": tau})[0] * torch.arange(3.0)).sum()

    each = torch.stack([torch.func.grad(loss)(tau) for tau in taus])
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(taus), each)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_as_one_graph(backend):
    x = torch.randn(5, 4)

    def loss(x):
        return (spikes(x * 2) * 3).sum() + spikeloom.run(NEURON, x, reduce="mean")[0].sum()

    found, wanted = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.compile(loss, fullgraph=True, backend=backend)(found).backward()
    loss(wanted).backward()
    torch.testing.assert_close(found.grad, wanted.grad)


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("name", ["LIF", "per step", "no kernel"])
def test_what_runs_eagerly_compiles_as_one_graph(name, learns):
    def odd(x, state, p):
        return fire(x.sinh() - p.a, surrogate.ATan()), (state[0] + x,)

    neuron = {
        "LIF": LIF(),
        "per step": spikeloom.Neuron(odd, params={"a": spikeloom.PerStep(torch.rand(5))}),
        "no kernel": spikeloom.Neuron(odd, params={"a": 0.5}),
    }[name]
    layer = spikeloom.SpikingLayer(neuron, implementation="eager")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = (2 * torch.rand(5, 4)).requires_grad_(learns)
    found, wanted = compiled(x), layer(x)
    assert torch.equal(found, wanted)
    if learns:
        (expected,) = torch.autograd.grad(wanted.sum(), x)
        torch.testing.assert_close(torch.autograd.grad(found.sum(), x)[0], expected)


@pytest.mark.slow
def test_compiles_with_inductor():
    x = torch.randn(5, 4)
    layer = spikeloom.SpikingLayer(LIF(tau=torch.nn.Parameter(torch.tensor(2.0))))
    compiled = torch.compile(layer, fullgraph=True)
    compiled(x).sum().backward()
    found = layer.tau.grad.clone()
    layer.tau.grad = None
    layer(x).sum().backward()
    torch.testing.assert_close(found, layer.tau.grad)


def test_an_exported_program_runs_after_saving(tmp_path):
    x = torch.randn(5, 4)
    layer = spikeloom.SpikingLayer(LIF(tau=torch.nn.Parameter(torch.tensor(2.0))))
    program = torch.export.export(layer, (x,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, tmp_path / "layer.pt2")
        loaded = torch.export.load(tmp_path / "layer.pt2")
    assert torch.equal(loaded.module()(x), layer(x))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operators_pass_opcheck(case):
    neuron, params = case.make(4, 6, torch.float32)
    times = 1 if neuron.begin else 4
    xs = [torch.randn(times, 6) for _ in range(case.inputs)]
    vs = [torch.zeros(6) for _ in range(case.states)]
    ps = [
        p.detach().expand(6) if p.dim() == 1 and p.numel() == 6 else p.detach()
        for p in params.values()
    ]
    given = neuron.program, 4, list(neuron.surrogate_numbers.values())
    torch.library.opcheck(torch.ops.spikeloom.scan, (*given, xs, vs, ps))
    gys = [torch.randn(4, 6) for _ in range(neuron.outputs)]
    wanted = list(range(len(xs) + len(vs) + len(ps)))
    torch.library.opcheck(torch.ops.spikeloom.scan_backward, (*given, wanted, xs, vs, ps, gys, vs))


def test_autocast_trains_in_bfloat16():
    linear, x = torch.nn.Linear(6, 6), torch.randn(4, 2, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = spikes(linear(x))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert linear.weight.grad.isfinite().all()


@pytest.mark.parametrize("learns", [False, True])
def test_a_compiled_call_takes_more_lengths_and_batches_than_a_recompilation_limit(learns):
    torch._dynamo.reset()  # other tests compile layers too
    layer = spikeloom.SpikingLayer(LIF(tau=2.3, surrogate=surrogate.ATan()))
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    aot_eager = torch._dynamo.lookup_backend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for steps, batch in [(3, 2), (4, 2), (4, 3), *((length, 5) for length in range(5, 16))]:
        x = torch.randn(steps, batch, 4).requires_grad_(learns)
        found, wanted = compiled(x), layer(x)
        assert torch.equal(found, wanted)
        if learns:
            (expected,) = torch.autograd.grad(wanted.sum(), x)
            assert torch.equal(torch.autograd.grad(found.sum(), x)[0], expected)
    assert len(graphs) <= 3


def test_an_exported_program_takes_every_length_and_batch_if_told_so():
    layer = spikeloom.SpikingLayer(LIF(tau=torch.nn.Parameter(torch.tensor(2.3))))
    axes = {0: torch.export.Dim("T", min=2), 1: torch.export.Dim("batch", min=2)}
    program = torch.export.export(layer, (torch.randn(5, 3, 4),), dynamic_shapes=(axes,))
    for steps, batch in ((2, 2), (5, 3), (17, 4), (40, 9)):
        x = torch.randn(steps, batch, 4)
        assert torch.equal(program.module()(x), layer(x))
