"""What a call launches, and with which arguments, as a driver sees it."""

import contextlib
import math
import re

import pytest
import torch
from torch.autograd.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import spikeloom
from spikeloom import Gated, Neuron, PerStep
from spikeloom.kernel.call import run_step
from spikeloom.kernel.cuda_arguments import Arguments
from spikeloom.kernel.cuda_shape import BLOCK, WARPS
from spikeloom.kernel.trace import Program
from spikeloom.kernel.vocabulary import fire, lookup
from spikeloom.neurons import LIF, surrogate
from tests.kernel import cuda_standin


@pytest.fixture
def driver(monkeypatch):
    return cuda_standin.install(monkeypatch)


@pytest.fixture
def run_cuda(driver):
    from spikeloom.kernel import run_cuda

    return run_cuda


def names(driver):
    return [launch.name for launch in driver.launches]


def test_arguments_arrive_in_order(driver, run_cuda):
    program = Program.parse(LIF(2.0, 1.5).program)
    x, y, w = torch.zeros(2 * 5, 1000)[::2], torch.empty(5, 1000), torch.empty(1000)
    rest = torch.zeros(())
    launch = run_cuda.forward_launch(program, 5, [2.0, 1.5, 4.0], x.dtype, 1000)
    launch([x], [rest], [], [y], [w])
    (launch,) = driver.launches
    addresses = x.data_ptr(), 2000, rest.data_ptr(), 0, w.data_ptr(), y.data_ptr()
    assert launch.arguments == (5, 1000, *addresses, 2.0, 1.5, 4.0)
    assert launch.function.kinds == "qqPqPqPPfff"
    assert (launch.blocks, launch.threads) == (2, BLOCK)  # 4 neurons a thread


def test_a_gradient_that_was_not_sent_is_a_null_pointer(driver):
    x = torch.randn(4, 8, requires_grad=True)
    spikeloom.run(LIF(), x)[0].sum().backward()
    arguments = driver.launches[-1].arguments
    assert driver.launches[-1].name == "backward"
    # T, N, x and its stride, its gradient, v and its stride, then the last state's gradient.
    assert arguments[7:10] == (0, 0, 0)


def test_a_number_beyond_float32_is_infinite(driver):
    neuron = Neuron(lambda x, v, p: (x * p.gain, v), params={"gain": 1e300})
    y, _ = spikeloom.run(neuron, torch.ones(1, 4))
    assert y.tolist() == [[math.inf] * 4]
    assert driver.launches[0].arguments[-1] == math.inf


class Work(TorchDispatchMode):
    """The operations that would be launches of their own on a GPU."""

    VIEWS = ("empty", "new_empty", "empty_like", "detach", "expand", "view", "as_strided", "select")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in self.VIEWS:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def learning_neuron(steps):
    def step(x, state, p):
        v, row = state
        h = p.decay * v + x * p.gain + p.offset * lookup(p.table, row)
        s = fire(h - p.threshold, surrogate.ATan())
        return s, (h - s * p.threshold, row)

    params = {
        "decay": torch.tensor(0.7),
        "gain": PerStep(torch.rand(steps) + 0.5),
        "offset": torch.tensor(0.3),
        "table": Gated(torch.randn(3, steps)),
        "threshold": torch.rand(8) + 0.5,
    }
    neuron = Neuron(step, state=("v", "row"), params=params)
    program = Program.parse(neuron.program)
    tensors = [p if isinstance(p, torch.Tensor) else p.values for p in params.values()]
    return program, list(neuron.surrogate_numbers.values()), tensors


@pytest.mark.parametrize("learned, launches", [(False, 1), (True, 2)])
def test_a_backward_is_one_launch_and_one_more_for_learned_parameters(
    driver, run_cuda, learned, launches
):
    from spikeloom.kernel.plan import _adjoint

    program, numbers, ps = learning_neuron(5)
    x, gy, gx = torch.randn(5, 8), torch.randn(5, 8), torch.empty(5, 8)
    states = [torch.zeros(()), torch.ones(8)]
    wanted = (0, *range(3, 8)) if learned else (0,)
    gradient = _adjoint(program, wanted)
    launch = run_cuda.backward_launch(program, gradient, 5, numbers, x.dtype, 8)
    with Work() as work:
        found = launch([x], states, ps, [gy], [None, None], [gx], [None, None])
    assert work.seen == []
    assert len(driver.launches) == launches
    assert [found[name].shape for name, _ in program.tensors if name in found] == (
        [p.shape for p in ps] if learned else []
    )


def test_a_forward_is_one_launch(driver, run_cuda):
    program, numbers, ps = learning_neuron(5)
    x, y = torch.randn(5, 8), torch.empty(5, 8)
    states, ws = [torch.zeros(()), torch.ones(8)], [torch.empty(8), torch.empty(8)]
    launch = run_cuda.forward_launch(program, 5, numbers, x.dtype, 8)
    with Work() as work:
        launch([x], states, ps, [y], ws)
    assert work.seen == [] and names(driver) == ["forward"]


def test_fewer_neurons_share_a_thread_where_registers_do_not_suffice(driver):
    x = torch.randn(16, 64)
    expected, _ = spikeloom.run(LIF(), x, implementation="eager")
    driver.local = lambda text: 0 if "VEC = 1;" in text else 8
    y, _ = spikeloom.run(LIF(), x)
    assert torch.equal(y, expected)
    assert "VEC = 1;" in driver.launches[0].text and driver.launches[0].blocks == 1


def test_a_segment_is_halved_where_nothing_else_saves_registers(driver):
    x = torch.randn(16, 64, requires_grad=True)
    neuron = LIF(surrogate=surrogate.ATan())
    driver.local = lambda text: 0 if "forward(" in text or "SEGMENT = 8;" in text else 8
    found, expected = (
        torch.autograd.grad(spikeloom.run(neuron, x, implementation=how)[0].sum(), x)[0]
        for how in ("auto", "eager")
    )
    torch.testing.assert_close(found, expected)
    assert re.search(r"__launch_bounds__\(128, 2\) backward", driver.launches[1].text)
    assert "VEC = 1;" in driver.launches[1].text


def test_a_call_like_an_earlier_one_loads_nothing(driver):
    x = torch.randn(16, 64, requires_grad=True)
    for _ in range(3):
        spikeloom.run(LIF(), x)[0].sum().backward()
    assert len(driver.loaded) == 2 and len(driver.launches) == 6


def test_other_numbers_of_a_surrogate_need_no_other_kernel(driver, run_cuda):
    x = torch.randn(16, 64, requires_grad=True)
    for alpha in (2.0, 2.3, 4.0):
        neuron = LIF(surrogate=surrogate.ATan(alpha))
        found, expected = (
            torch.autograd.grad(spikeloom.run(neuron, x, implementation=how)[0].sum(), x)[0]
            for how in ("auto", "eager")
        )
        torch.testing.assert_close(found, expected)
    assert run_cuda._forward_plan.cache_info().currsize == 1
    assert run_cuda._backward_plan.cache_info().currsize == 1


def test_zeros_of_either_sign_are_handed_over_as_they_are(driver):
    for gain in (0.0, -0.0):
        neuron = Neuron(lambda x, v, p: (x * p.gain, v), params={"gain": gain})
        y, _ = spikeloom.run(neuron, torch.ones(1, 4))
        assert y.signbit().all() == (math.copysign(1.0, gain) < 0)


def test_shares_of_all_threads_are_summed_in_float64(driver, run_cuda):
    shares = torch.randn(3, 1000 * 128, dtype=torch.float64)
    result = torch.empty(3)
    arguments = Arguments()
    arguments.shares(shares, result)
    text = run_cuda.totals("float32", ("scalar",))
    kernel = run_cuda.cuda_device.load(text, "totals", shares.device)
    kernel.launch(3, BLOCK, arguments.packed())
    torch.testing.assert_close(result, shares.sum(-1).float(), rtol=1e-6, atol=1e-6)


# --- Gradients of tables ---


def gradients_of_tables(driver, rows, steps, neurons, dtype=torch.float32):
    """The gradients of the parameters of every kind, by the kernel and by the step."""
    torch.manual_seed(1)
    x, row = torch.randn(steps, neurons), torch.randint(0, rows, (neurons,))
    first = torch.zeros(neurons, dtype=dtype), row.to(dtype)
    values = torch.rand(steps, dtype=dtype) + 0.5, torch.randn(rows, steps, dtype=dtype)

    def step(x, state, p):
        v, row = state
        h = 0.7 * v + x * p.gain + 0.3 * lookup(p.table, row)
        s = fire(h - 1.0, surrogate.ATan())
        return s * lookup(p.table, 0.0 * row), (h - s, row)

    def found(how):
        gain, table = (value.clone().requires_grad_() for value in values)
        neuron = Neuron(
            step, state=("v", "row"), params={"gain": PerStep(gain), "table": Gated(table)}
        )
        y, _ = spikeloom.run(neuron, x.to(dtype), first, implementation=how)
        return torch.autograd.grad((y * torch.cos(x.to(dtype))).sum(), (gain, table))

    return found("auto"), found("eager")


@pytest.mark.parametrize("steps, neurons", [(5, 264), (3, 133), (20, 4), (2, 4000)])
@pytest.mark.parametrize("rows", [1, 3, 8, 9])
def test_gradients_of_tables_are_those_of_the_step(driver, rows, steps, neurons):
    found, expected = gradients_of_tables(driver, rows, steps, neurons, torch.float64)
    torch.testing.assert_close(found, expected)
    assert ("WarpSums<8>" in driver.launches[1].text) == (rows == 8)


def test_few_rows_are_summed_without_a_read_of_global_memory(driver):
    gradients_of_tables(driver, 3, 5, 264)
    text = driver.launches[1].text
    assert "Sums g_table" not in text.replace("WarpSums<3> g_table", "")
    assert re.search(r"__shared__ real table_cells\[4 \* 24\];", text)
    # What is summed of the gain, and then of the table: 128 threads leave a share, or 4 warps.
    counts = driver.launches[2].arguments[1::4]
    assert counts == (BLOCK, WARPS)


def test_a_table_of_many_steps_is_summed_in_global_memory(driver):
    gradients_of_tables(driver, 8, 300, 4)
    text = driver.launches[1].text
    assert "Sums g_table" in text and "WarpSums" not in text


@pytest.mark.parametrize("neurons", [264, 133, 4])
def test_sums_do_not_depend_on_the_order_of_threads(driver, neurons):
    first, _ = gradients_of_tables(driver, 3, 5, neurons)
    driver.backwards = True
    second, _ = gradients_of_tables(driver, 3, 5, neurons)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


# --- Long sequences ---

LONG = 64


def test_a_long_backward_moves_at_most_13_bytes_a_neuron_step(driver):
    x = torch.randn(LONG, 4096, requires_grad=True)
    spikeloom.run(LIF(surrogate=surrogate.ATan()), x)[0].backward(torch.ones(LONG, 4096))
    forward, backward = driver.launches
    assert forward.moved / x.numel() <= 8.5  # x, y and a state in 16 steps
    assert 12 < backward.moved / x.numel() <= 13  # x, its gradient, that of y, and the states


def test_inference_notes_nothing(driver):
    x = torch.randn(LONG, 64)
    spikeloom.run(LIF(), x)
    assert "notes" not in driver.launches[0].text
    assert driver.launches[0].moved / x.numel() <= 8.1


def test_a_sequence_that_is_one_segment_notes_nothing(driver):
    x = torch.randn(16, 64, requires_grad=True)
    spikeloom.run(LIF(), x)[0].sum().backward()
    assert "notes" not in driver.launches[0].text


def long_neuron(tensors):
    def step(x, state, p):
        v, row = state
        h = p.decay * v + x * lookup(p.table, row)
        s = fire(h - 1.0, surrogate.ATan())
        return s, (h - s, row)

    params = {"decay": tensors[0], "table": Gated(tensors[1])}
    return Neuron(step, state=("v", "row"), params=params)


def test_the_notes_of_a_forward_pass_change_no_bit(driver):
    torch.manual_seed(0)
    x, rows = torch.randn(40, 24), torch.randint(0, 3, (24,)).float()
    parameters = torch.tensor(0.8), torch.rand(3, 40) + 0.5

    def gradients(learned, wanted, mode):
        leaves = [t.clone().requires_grad_(i in learned) for i, t in enumerate((x, *parameters))]
        first = torch.zeros(24), rows
        with mode():  # a mode follows a call, and then nothing is noted
            y, (v, _) = spikeloom.run(long_neuron(leaves[1:]), leaves[0], first)
        return torch.autograd.grad((y * x).sum() + v.sum(), [leaves[i] for i in wanted])

    for learned, wanted in (((0,), (0,)), ((0, 1, 2), (0, 1, 2)), ((0, 1, 2), (0,))):
        noted, alone = (gradients(learned, wanted, mode) for mode in (contextlib.nullcontext, Work))
        forwards = [launch for launch in driver.launches if launch.name == "forward"]
        assert ["notes" in launch.text for launch in forwards[-2:]] == [True, False]
        for a, b in zip(noted, alone, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("profiled", ["forward", "backward"])
def test_a_checkpoint_may_be_profiled_in_one_of_its_runs_only(driver, profiled):
    """What is noted would be saved for the backward pass, and a profile sees the operator alone."""
    x = torch.randn(40, 24, requires_grad=True)

    def seen(now):
        return profile() if now == profiled else contextlib.nullcontext()

    def layer(x):
        return spikeloom.run(LIF(3.0, surrogate=surrogate.ATan()), x)[0]

    with seen("forward"):
        y = checkpoint(layer, x, use_reentrant=False)
    with seen("backward"):
        (found,) = torch.autograd.grad(y.square().sum(), x)
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
    assert torch.equal(found, expected)
    assert "notes" in driver.launches[-2].text  # without a checkpoint


def test_what_was_noted_for_other_segments_is_not_taken(driver):
    """Gradients of tables ask for shorter segments than those of inputs."""
    x = torch.randn(40, 24, requires_grad=True)
    tensors = torch.tensor(0.8), (torch.rand(3, 40) + 0.5).requires_grad_()
    state = torch.zeros(24), torch.zeros(24)
    found, expected = (
        torch.autograd.grad(
            spikeloom.run(long_neuron(tensors), x, state, implementation=how)[0].sum(), x
        )[0]
        for how in ("auto", "eager")
    )
    torch.testing.assert_close(found, expected)


def test_a_step_without_a_time_axis_is_one_launch_and_nothing_else(driver):
    x = torch.randn(3, 8)
    run_step(LIF(), x)
    with torch.no_grad():
        y, (v,) = run_step(LIF(), x)
    expected = run_step(LIF(), x, implementation="eager")
    assert torch.equal(y, expected[0]) and torch.equal(v, expected[1][0])
    assert names(driver) == ["forward"] * 2
    leaf = x.clone().requires_grad_()
    y, _ = run_step(LIF(), leaf)
    assert "Planned" in type(y.grad_fn).__name__
