"""Every word means on the kernel what it means on tensors, derivative included."""

import math

import pytest
import torch

import spikeloom
from spikeloom.kernel import vocabulary as words
from spikeloom.neurons import surrogate

SPECIAL = torch.tensor([0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-40, 3e38, -3e38, 1.0, 7.25])
EXACT = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: 1.0 - a,
    "multiply": lambda a, b: a * b * 0.1,
    "divide": lambda a, b: a / (b * b + 1.0),
    "number-divided": lambda a, b: 0.1 / (a + 3.0),
    "square": lambda a, b: (a / 1e20) ** 2,
    "cube": lambda a, b: (a / 1e20) ** 3,
    "negate": lambda a, b: -a,
    "sqrt": lambda a, b: words.sqrt(words.absolute(a) + 1.0),
    "absolute": lambda a, b: words.absolute(a),
    "rint": lambda a, b: words.rint(a) + a,
    "floor": lambda a, b: words.floor(a) - a,
    "sign": lambda a, b: words.sign(a) * b,
    "maximum": lambda a, b: words.maximum(a, b),
    "minimum": lambda a, b: words.minimum(a, b),
    "clamp": lambda a, b: words.clamp(a, -1.0, 1.0),
    "relu": lambda a, b: words.relu(a),
    "where": lambda a, b: words.where((a > 0) & ~(b >= 1.0) | (a == b), a, b),
    "unequal": lambda a, b: words.where(a != b, a, 3.0),
    "less": lambda a, b: words.where(a < b, 1.0, 0.0) + words.where(a <= b, 0.25, 0.5) * a,
    "detach": lambda a, b: words.detach(a) * b,
    "with_grad": lambda a, b: words.with_grad(words.rint(a), (a, b), (b, 2.0)),
    "fire": lambda a, b: words.fire(a - b, surrogate.Triangle()),
    "fire-strictly": lambda a, b: words.fire(a - b, surrogate.Triangle(), strict=True),
    "fire-without-gradient": lambda a, b: words.fire(a - b) + a,
}
ROUNDED = {
    "exp": lambda a, b: words.exp(words.clamp(a, -9.0, 9.0)),
    "log": lambda a, b: words.log(words.absolute(a) + 0.5),
    "erf": lambda a, b: words.erf(words.clamp(a, -3.0, 3.0)),
    "sigmoid": lambda a, b: words.sigmoid(a),
    "tanh": lambda a, b: words.tanh(words.clamp(a, -9.0, 9.0)),
}


def evaluate(word, a, b, implementation):
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    neuron = spikeloom.Neuron(lambda x, state, p: (word(*x), ()), state=(), inputs=2, name="word")
    y, _ = spikeloom.run(neuron, (a[None], b[None]), implementation=implementation)
    weights = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype)
    grads = torch.autograd.grad((y[0] * weights).sum(), (a, b), allow_unused=True)
    return y[0], [torch.zeros_like(a) if g is None else g for g in grads]


def operands(dtype):
    grid = torch.randint(-8, 9, (40,)) / 4.0
    a = torch.cat([SPECIAL, torch.randn(41), grid]).to(dtype)
    b = torch.cat([SPECIAL.flip(0), torch.randn(41), grid.roll(1)]).to(dtype)
    return a, b


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*EXACT, *ROUNDED])
def test_word_equals_eager_with_its_derivative(name, dtype):
    word = EXACT.get(name) or ROUNDED[name]
    a, b = operands(dtype)
    value, grads = evaluate(word, a, b, "llvm")
    expected, expected_grads = evaluate(word, a, b, "eager")
    if name in EXACT and (name, dtype) != ("sqrt", torch.float64):
        assert torch.equal(value, expected)
    else:
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    for found, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(found, wanted, rtol=2e-6, atol=2e-6, equal_nan=True)


@pytest.mark.parametrize("name", ["maximum", "minimum", "clamp", "relu"])
@pytest.mark.parametrize("implementation", ["eager", "llvm"])
def test_nan_passes_through(name, implementation):
    nan = torch.full((3,), math.nan)
    one = torch.ones(3)
    assert evaluate(EXACT[name], nan, one, implementation)[0].isnan().all()
    if name in ("maximum", "minimum"):
        assert evaluate(EXACT[name], one, nan, implementation)[0].isnan().all()


@pytest.mark.parametrize(
    "name, number", [("exp", 0.5), ("log", 2.0), ("sqrt", 2.0), ("rint", 2.5), ("floor", -0.5)]
)
def test_a_word_accepts_a_plain_number(name, number):
    word = getattr(words, name)
    torch_word = {"rint": torch.round}.get(name) or getattr(torch, name)
    assert word(number) == pytest.approx(
        float(torch_word(torch.tensor(number, dtype=torch.float64)))
    )


def test_where_between_numbers_needs_float32_numbers():
    condition = torch.tensor([True, False])
    assert words.where(condition, 1.0, 0.5).tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match=r"0\.1 is not a float32 number"):
        words.where(condition, 0.1, 1.0)
