"""Every family on every runner that works here equals an independent float64 loop."""

import pytest
import torch

import spikeloom
from tests.kernel.families import CASES

RUNNERS = ["eager", "llvm"]
SIZES = [(1, 5), (4, 64), (16, 37), (45, 16)]


def draw(case, steps, neurons, dtype):
    """A neuron, leaves that require grad, and weights for a loss on outputs and states."""
    neuron, params = case.make(steps, neurons, torch.float64)
    times = 1 if neuron.begin else steps
    xs = [torch.randn(times, neurons, dtype=torch.float64) * 1.3 for _ in range(case.inputs)]
    states = [torch.randn(neurons, dtype=torch.float64) * 0.3 for _ in range(case.states)]
    return params, xs, states


def leaves(tensors, dtype):
    return [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]


def loss_of(outputs, states):
    """A loss in which every output and state element has a weight of its own."""
    total = 0.0
    for value in [*outputs, *states]:
        weight = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).reshape(value.shape)
        total = total + (value.double() * weight.cos()).sum()
    return total


def run_case(case, params, xs, states, steps, dtype, implementation):
    values = {name: tensor.detach().to(dtype).requires_grad_() for name, tensor in params.items()}
    neuron = case.neuron(values)
    xs, states = leaves(xs, dtype), leaves(states, dtype)
    x = tuple(xs) if case.inputs > 1 else xs[0]
    y, last = spikeloom.run(neuron, x, tuple(states), implementation=implementation)
    outputs = list(y) if isinstance(y, tuple) else [y]
    inputs = [*xs, *states, *values.values()]
    grads = torch.autograd.grad(loss_of(outputs, last), inputs, allow_unused=True)
    return outputs, last, grads


def run_loop(case, params, xs, states, steps):
    values = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
    xs, states = leaves(xs, torch.float64), leaves(states, torch.float64)
    outputs, last = case.reference(xs, states, values, steps)
    outputs = [torch.stack(output) for output in outputs]
    inputs = [*xs, *states, *values.values()]
    grads = torch.autograd.grad(loss_of(outputs, last), inputs, allow_unused=True)
    return outputs, last, grads


def filled(grads, like):
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, like, strict=True)]


@pytest.mark.parametrize("steps, neurons", SIZES)
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_equals_the_reference_loop(case, runner, steps, neurons):
    params, xs, states = draw(case, steps, neurons, torch.float64)
    outputs, last, grads = run_case(case, params, xs, states, steps, torch.float64, runner)
    expected, expected_last, expected_grads = run_loop(case, params, xs, states, steps)
    for found, wanted in zip([*outputs, *last], [*expected, *expected_last], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    like = [*xs, *states, *params.values()]
    found, wanted = filled(grads, like), filled(expected_grads, like)
    for name, a, b in zip(range(len(like)), found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("steps, neurons", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_kernel_equals_the_eager_step(case, dtype, steps, neurons):
    params, xs, states = draw(case, steps, neurons, dtype)
    params = {name: tensor.detach().float() for name, tensor in params.items()}
    states = [state.float() for state in states]

    def run_with(implementation):
        values = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
        neuron = case.neuron(values)
        inputs, start = leaves(xs, dtype), leaves(states, torch.float32)
        x = tuple(inputs) if case.inputs > 1 else inputs[0]
        y, last = spikeloom.run(neuron, x, tuple(start), implementation=implementation)
        outputs = list(y) if isinstance(y, tuple) else [y]
        everything = [*inputs, *start, *values.values()]
        grads = torch.autograd.grad(loss_of(outputs, last), everything, allow_unused=True)
        return [*outputs, *last], filled(grads, everything)

    values, grads = run_with("llvm")
    expected, expected_grads = run_with("eager")
    if case.inexact:
        # A decision may flip where the exp or erf behind it is rounded differently.
        close = all(torch.allclose(a, b, atol=1e-5) for a, b in zip(values, expected, strict=True))
        if not close:
            changed = sum((a != b).sum() for a, b in zip(values, expected, strict=True))
            assert changed <= 2e-3 * sum(a.numel() for a in values)
            return
    else:
        for a, b in zip(values, expected, strict=True):
            assert torch.equal(a, b)
    for a, b in zip(grads, expected_grads, strict=True):
        # Two roundings of a 16-bit gradient may differ by one unit in the last place.
        tolerance = 2e-5 if a.dtype == torch.float32 else 1e-2
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
