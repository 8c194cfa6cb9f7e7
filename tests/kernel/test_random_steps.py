"""Steps drawn at random: every kernel of every step equals the eager meaning."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spikeloom
from spikeloom import Gated, Neuron, PerStep
from spikeloom.kernel import vocabulary as words
from spikeloom.neurons import surrogate

LEAVES = ("x", "y", "v", "u", "scalar", "neuron", "step", "table", 0.5, -1.25, 1.0)
# Bounded, so that no sequence of them leaves the range in which gradients can be compared.
UNARY = {
    "negate": lambda a: -a,
    "absolute": words.absolute,
    "relu": words.relu,
    "detach": words.detach,
    "fire": lambda a: words.fire(a - 0.25, surrogate.Triangle()),
    "strict": lambda a: words.fire(a, surrogate.ATan(), strict=True),
    "ternary": lambda a: words.with_grad(words.clamp(words.rint(a), -1.0, 1.0), (a, 0.5)),
    "square": lambda a: 0.25 * a**2,
    "floor": lambda a: words.floor(a) * 0.5 + a,
}
BINARY = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: 0.5 * a * b,
    "divide": lambda a, b: a / (words.absolute(b) + 1.0),
    "maximum": words.maximum,
    "minimum": words.minimum,
    "choose": lambda a, b: words.where(a > b, 0.5 * a, b),
}

# With a term that makes no plain number of them.
CONDITIONS = {
    "above": lambda a, b, x: a + 0.0 * x > b,
    "at least": lambda a, b, x: ~(a + 0.0 * x < b),
    "equal": lambda a, b, x: (a + 0.0 * x == b) | (x > 1.0),
}

expressions = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(list(UNARY)), inner),
        st.tuples(st.sampled_from(list(BINARY)), inner, inner),
    ),
    max_leaves=8,
)
# What a step may return: also a plain number, and a condition, which means 1 or 0.
results = st.one_of(
    expressions,
    st.sampled_from([0.0, 0.75, -1.5, 2, True]),
    st.tuples(st.sampled_from(list(CONDITIONS)), expressions, expressions),
)


def value(expression, names):
    if isinstance(expression, (float, int)):
        return expression
    if isinstance(expression, str):
        return names[expression]
    operation, *operands = expression
    found = [value(operand, names) for operand in operands]
    if operation in CONDITIONS:
        return CONDITIONS[operation](*found, names["x"])
    if all(isinstance(number, float) for number in found):
        found[0] = found[0] + 0.0 * names["x"]
    return (UNARY | BINARY)[operation](*found)


def is_bare(expression):
    """Whether it is a plain number or a condition, and bounded therefore."""
    return isinstance(expression, (float, int)) or expression[0] in CONDITIONS


def neuron_of(output, states, params):
    def step(xs, state, p):
        x, y = xs
        names = {"x": x, "y": y, "v": state[0], "u": state[1]}
        names |= {"scalar": p.scalar, "neuron": p.neuron, "step": p.step}
        names["table"] = words.lookup(p.table, words.where(x > 0, 1.0, 0.0))
        found = ((s, value(s, names)) for s in states)
        bounded = (v if is_bare(s) else words.clamp(v, -2.0, 2.0) for s, v in found)
        return value(output, names), tuple(bounded)

    kinds = {"step": PerStep(params["step"]), "table": Gated(params["table"])}
    return Neuron(step, state=("v", "u"), inputs=2, params={**params, **kinds}, name="random")


@settings(deadline=None, max_examples=60)
@given(
    output=results,
    states=st.tuples(results, results),
    steps=st.integers(1, 20),
    neurons=st.sampled_from([1, 3, 16, 19, 40]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_a_random_step_equals_eager(output, states, steps, neurons, dtype, seed):
    torch.manual_seed(seed)
    shapes = {"scalar": (), "neuron": (neurons,), "step": (steps,), "table": (2, steps)}
    params = {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}
    # Multiples of 1/4 meet thresholds and each other.
    xs = [torch.randint(-8, 9, (steps, neurons)).to(dtype) / 4 for _ in range(2)]
    weights = torch.linspace(-1, 1, steps * neurons, dtype=dtype).reshape(steps, neurons)
    results = []
    for implementation in ("eager", "llvm"):
        leaves = [t.clone().requires_grad_() for t in (*xs, *params.values())]
        neuron = neuron_of(output, states, dict(zip(params, leaves[2:], strict=True)))
        y, last = spikeloom.run(neuron, tuple(leaves[:2]), implementation=implementation)
        loss = (y * weights).sum() + sum((v * weights[0]).sum() for v in last)
        loss = loss + 0.0 * leaves[0].sum()  # of numbers alone, it would have no gradient
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        pairs = zip(grads, leaves, strict=True)
        results.append(([y, *last], [torch.zeros_like(t) if g is None else g for g, t in pairs]))
    (values, grads), (found, found_grads) = results
    for a, b in zip(values, found, strict=True):
        assert torch.equal(a, b)
    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    for a, b in zip(grads, found_grads, strict=True):
        scale = max(1.0, float(a.abs().max()))
        torch.testing.assert_close(a / scale, b / scale, rtol=tolerance, atol=tolerance)
