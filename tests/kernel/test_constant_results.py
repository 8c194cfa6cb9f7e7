"""A step may return plain numbers and bare conditions, as outputs, states and at its beginning."""

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import Neuron
from spikeloom.kernel.source import source
from spikeloom.kernel.vocabulary import fire, floor, rint, where
from spikeloom.plugins import norse, snntorch, spikingjelly
from tests.kernel import cuda_standin

RUNNERS = ["eager", "llvm", "cuda"]
X = torch.randint(-4, 9, (5, 3, 4)) / 4


def number_as_state(x, state, p):
    (v,) = state
    return fire(v + x - 0.75), (0.25,)


def condition_as_output(x, state, p):
    (v,) = state
    h = v + x
    return h >= 1.0, (h * 0.5,)


def condition_as_state(x, state, p):
    (v,) = state
    return v + x, (x > 0.5,)


def numbers_as_output_and_state(x, state, p):
    (v,) = state
    return (0.5, v + x, True), (2,)


# Name -> step, and the same step in float64: (x, v) -> outputs, v.
STEPS = {
    "number as state": (number_as_state, lambda x, v: ([v + x >= 0.75], 0.25)),
    "condition as output": (condition_as_output, lambda x, v: ([v + x >= 1.0], (v + x) * 0.5)),
    "condition as state": (condition_as_state, lambda x, v: ([v + x], x > 0.5)),
    "numbers everywhere": (numbers_as_output_and_state, lambda x, v: ([0.5, v + x, 1.0], 2.0)),
}


def loop(step, x):
    """Outputs ``[T, *]`` and the state after each step."""
    v, outputs, states = torch.zeros(x.shape[1:]).double(), [], []
    for now in x.double():
        ys, v = step(now, v)
        outputs.append([torch.as_tensor(y).double().expand(now.shape) for y in ys])
        states.append(v := torch.as_tensor(v).double().expand(now.shape))
    return [torch.stack(series) for series in zip(*outputs, strict=True)], torch.stack(states)


@pytest.fixture(params=RUNNERS)
def runner(request, monkeypatch):
    """Eager, the CPU kernel, or the CUDA text on a CPU, as an implementation's name."""
    if request.param == "cuda":
        cuda_standin.install(monkeypatch)
        return "llvm"
    return request.param


@pytest.mark.parametrize("record", [None, "v"])
@pytest.mark.parametrize("reduce", [None, "sum", "mean"])
@pytest.mark.parametrize("name", STEPS)
def test_results_equal_an_independent_loop(name, reduce, record, runner):
    step, plain = STEPS[name]
    expected, states = loop(plain, X)
    if reduce is not None:
        expected = [getattr(y, reduce)(0) for y in expected]
    neuron = Neuron(step)
    assert neuron.program is not None, neuron.reason
    y, (v,), *seq = spikeloom.run(neuron, X, record=record, reduce=reduce, implementation=runner)
    for found, wanted in zip(y if isinstance(y, tuple) else (y,), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)
    assert torch.equal(v.double(), states[-1])
    assert all(torch.equal(found.double(), states) for found in seq)


@pytest.mark.parametrize("reduce", [None, "sum"])
def test_gradients_pass_beside_numbers(reduce, runner):
    """Only the first step's state depends on something: later ones are the number."""

    def step(x, state, p):
        (v,) = state
        return (x * v * p.w, x > 0), (0.25,)

    w = torch.tensor(3.0, requires_grad=True)
    x, v = X.clone().requires_grad_(), torch.full((3, 4), 0.5, requires_grad=True)
    neuron = Neuron(step, params={"w": w})
    (y, positive), (last,) = spikeloom.run(neuron, x, (v,), reduce=reduce, implementation=runner)
    found = torch.autograd.grad(y.sum() + positive.sum() + last.sum(), (x, v, w))
    states = torch.cat([torch.full((1, 3, 4), 0.5), torch.full((4, 3, 4), 0.25)])
    torch.testing.assert_close(found[0], 3.0 * states)
    torch.testing.assert_close(found[1], 3.0 * X[0])
    torch.testing.assert_close(found[2], (states * X).sum())


def begin(x, state, p):
    return 0.25, x > 1.0, True


def after_begin(x, state, p):
    v, w, u = state
    return v + w + u * fire(v), (v + w, w, 0.5)


def test_a_beginning_may_set_numbers_and_conditions(runner):
    neuron = Neuron(after_begin, begin=begin, steps=3, state=("v", "w", "u"))
    assert neuron.program is not None, neuron.reason
    x = torch.tensor([[0.5, 1.5]])
    y, (v, w, u) = spikeloom.run(neuron, x, implementation=runner)
    assert y.tolist() == [[1.25, 2.25], [0.75, 2.75], [0.75, 3.75]]
    assert (v.tolist(), w.tolist(), u.tolist()) == ([0.25, 3.25], [0.0, 1.0], [0.5, 0.5])


def test_a_compiled_call_returns_numbers_and_conditions():
    neuron = Neuron(numbers_as_output_and_state)
    torch._dynamo.reset()
    compiled = torch.compile(spikeloom.SpikingLayer(neuron), backend="aot_eager", fullgraph=True)
    (half, y, one), expected = compiled(X), loop(STEPS["numbers everywhere"][1], X)[0]
    assert (half == 0.5).all() and (one == 1.0).all()
    assert torch.equal(y.double(), expected[1])


@pytest.mark.parametrize("implementation", ["eager", "llvm"])
@pytest.mark.parametrize(
    "make",
    [
        lambda neuron, how: spikingjelly.make(neuron, implementation=how),
        lambda neuron, how: snntorch.make(neuron, time_first=True, implementation=how),
        lambda neuron, how: norse.make(neuron, implementation=how),
    ],
    ids=["spikingjelly", "snntorch", "norse"],
)
def test_a_host_module_returns_conditions_as_numbers(make, implementation):
    found = make(Neuron(condition_as_output), implementation)(X)
    y = found if isinstance(found, torch.Tensor) else found[0]
    assert y.dtype == torch.float32
    assert torch.equal(y.double(), loop(STEPS["condition as output"][1], X)[0][0])


@pytest.mark.parametrize("target", ["cuda", "llvm"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_text_of_such_a_kernel_can_be_shown(target, direction):
    neuron = Neuron(numbers_as_output_and_state, params={"w": nn.Parameter(torch.ones(()))})
    assert direction in source(neuron, target, direction)


def test_where_chooses_by_a_plain_condition():
    def step(x, state, p):
        return where(p.w is None, x, 2.0 * x), state

    neuron = Neuron(step, params={"w": 1.0})
    assert neuron.program is not None, neuron.reason
    for implementation in ("eager", "llvm"):
        assert torch.equal(spikeloom.run(neuron, X, implementation=implementation)[0], 2.0 * X)


def test_two_conditions_are_not_added_because_tensors_would_join_them():
    neuron = Neuron(lambda x, state, p: ((x > 0) + (x > 1), state))
    assert neuron.program is None
    assert "join them with & and |" in neuron.reason


def beyond_float32(x, state, p):
    (v,) = state
    return where(x > 1e300, 1.0, v), (x + 1e39,)


def test_constants_beyond_float32_are_infinite_as_in_torch(runner):
    y, (v,) = spikeloom.run(Neuron(beyond_float32), X, implementation=runner)
    assert torch.equal(y[1:], torch.full_like(X[1:], torch.inf)) and not y[0].any()
    assert torch.equal(v, X[-1] + 1e39)
    y, (v,) = spikeloom.run(Neuron(beyond_float32), X.double(), implementation=runner)
    assert torch.equal(y[1:], X[:-1].double() + 1e39)


# What a newcomer's step may return by mistake, and what the error says.
SLIPS = {
    "a bare state": (lambda x, s, p: (x, s[0]), "1 states as a tuple, got Tensor"),
    "too many states": (lambda x, s, p: (x, (*s, *s)), "1 states as a tuple, got 2 of them"),
    "no state": (lambda x, s, p: x, r"must return \(y, new_state\), got Tensor"),
    "nothing": (lambda x, s, p: None, r"must return \(y, new_state\), got NoneType"),
    "three parts": (lambda x, s, p: (x, x, s), r"must return \(y, new_state\), got a tuple of 3"),
    "None": (lambda x, s, p: (None, s), "tensors and plain numbers, got NoneType"),
    "text as state": (lambda x, s, p: (x, ("v",)), "tensors and plain numbers, got str"),
    "complex": (lambda x, s, p: (1j, s), "tensors and plain numbers, got complex"),
}


@pytest.mark.parametrize("implementation", ["auto", "eager"])
@pytest.mark.parametrize("name", SLIPS)
def test_what_a_step_must_return_is_said(name, implementation):
    step, message = SLIPS[name]
    # Of one neuron, or two: a tensor that has as many rows would unpack.
    for x in (torch.ones(3, 1), torch.ones(3, 2)):
        with pytest.raises((TypeError, ValueError), match="step: .*" + message):
            spikeloom.run(Neuron(step), x, implementation=implementation)


def test_what_a_beginning_must_return_is_said():
    neuron = Neuron(lambda x, s, p: (s[0], s), begin=lambda x, s, p: x, steps=2)
    with pytest.raises(ValueError, match=r"begin: .*1 states as a tuple, got Tensor"):
        spikeloom.run(neuron, X)


def test_states_may_be_returned_as_a_list_in_every_implementation(runner):
    neuron = Neuron(lambda x, s, p: (s[0], [s[0] + x]))
    assert neuron.program is not None, neuron.reason
    _, (v,) = spikeloom.run(neuron, X, implementation=runner)
    assert torch.equal(v, X.sum(0))


@pytest.mark.parametrize(
    "word", [lambda a: -a, abs, floor, rint], ids=["-", "abs", "floor", "rint"]
)
def test_words_that_torch_has_for_no_condition_have_no_kernel(word):
    neuron = Neuron(lambda x, s, p: (word(x > 0.5), s))
    assert "where(condition, 1.0, 0.0)" in neuron.reason
    with pytest.raises(RuntimeError) as caught:
        spikeloom.run(neuron, X)
    assert neuron.reason in caught.value.__notes__
