"""What a counter of single operations sees of a neuron, and that it changes nothing."""

import pytest
import torch

import spikeloom
from spikeloom import Neuron, neurons
from spikeloom.kernel import vocabulary as words
from spikeloom.kernel.counted import counting_modes, uncounted
from spikeloom.neurons.surrogate import ATan
from tests.kernel.counting import Listing, Unknown
from tests.kernel.families import CASES
from tests.kernel.test_families import draw, run_case

TERNARY = neurons.ElasticBiSpike(0.5, decay=0.75)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_counted_call_equals_the_step(case, dtype):
    torch.manual_seed(7)
    drawn = draw(case, 6, 19, dtype)
    expected = run_case(case, *drawn, 6, dtype, "eager")
    with Listing() as listing:
        found = run_case(case, *drawn, 6, dtype, "auto")
    assert listing.elements["mul"]
    for own, reference in zip(found, expected, strict=True):
        for a, b in zip(own, reference, strict=True):
            if b is None:
                assert a is None
            else:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for own, reference in zip(found[:2], expected[:2], strict=True):
        assert all(map(torch.equal, own, reference))


@pytest.mark.parametrize(
    "neuron",
    [
        neurons.LIF(tau=3.0, v_reset=None),
        neurons.ParametricLIF(torch.tensor(0.3)),
        neurons.Leaky(0.9, reset_mechanism="zero"),
        neurons.LIFBox(),
        TERNARY,
        neurons.OAT(4, 1.0, 8.0),
        neurons.Trace(0.8),
    ],
    ids=lambda neuron: neuron.name,
)
@pytest.mark.parametrize("options", [{}, {"reduce": "mean"}, {"record": "v"}], ids=str)
def test_a_counted_call_equals_the_kernel_to_the_bit(neuron, options):
    x = torch.randn(7, 3, 5) + 0.4
    if "record" in options:
        options = {"record": neuron.state_names[0]}
    expected = spikeloom.run(neuron, x, **options)
    with Listing() as listing:
        found = spikeloom.run(neuron, x, **options)
    assert sum(listing.elements.values()) > x.numel()
    flat = [torch.utils._pytree.tree_leaves(result) for result in (found, expected)]
    for own, reference in zip(*flat, strict=True):
        assert torch.equal(own, reference)


def leaky(x, state, p):
    (v,) = state
    h = 0.5 * v + x
    s = words.fire(h - p.threshold, ATan())
    return s, (h * (1.0 - s),)


@pytest.mark.parametrize("implementation", ["auto", "llvm", "eager"])
def test_operations_are_those_of_the_step_for_each_neuron_and_step(implementation):
    neuron, x = Neuron(leaky, params={"threshold": 1.0}), torch.rand(3, 2, 5)
    with Listing() as listing:
        spikeloom.run(neuron, x, implementation=implementation)
    stack, once = listing.elements.pop("stack"), x.numel()
    assert stack == once
    # A spike is a comparison and a conversion; no derivative of the surrogate.
    assert {name: count for name, count in listing.elements.items() if count >= once} == {
        "mul": 2 * once,
        "add": once,
        "sub": once,
        "ge": once,
        "_to_copy": once,
        "rsub": once,
    }


def test_a_surrogate_derivative_is_computed_only_for_a_gradient():
    neuron, x = Neuron(leaky, params={"threshold": 1.0}), torch.rand(3, 2, 5)
    totals = []
    for wanted in (False, True):
        with Listing() as listing:
            spikeloom.run(neuron, x.clone().requires_grad_(wanted))
        totals.append(listing.elements["mul"])
    assert totals[0] == 2 * x.numel() < totals[1]


def test_an_expression_that_occurs_twice_is_computed_once():
    def twice(x, state, p):
        (v,) = state
        return x * v + x * v, (x * v,)

    x = torch.rand(4, 5)
    with Listing() as listing:
        spikeloom.run(Neuron(twice), x)
    assert listing.elements["mul"] == x.numel()


def test_what_numbers_alone_decide_is_not_computed_in_every_step():
    def scaled(x, state, p):
        (v,) = state
        gain = words.where(p.a > 0.5, p.a * p.b, words.exp(p.b))
        return x * gain, (v + words.where(p.b > 0.0, x, 2.0 * x),)

    neuron, x = Neuron(scaled, params={"a": 0.75, "b": 0.3}), torch.randn(4, 5)
    expected = spikeloom.run(neuron, x)
    with Listing() as listing:
        found = spikeloom.run(neuron, x)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1][0], expected[1][0])
    assert "exp" not in listing.elements and "gt" not in listing.elements
    assert listing.elements["where"] == 0


def test_tensors_without_values_are_counted_too():
    x = torch.empty(4, 5, device="meta")
    with Listing() as listing:
        y, _ = spikeloom.run(TERNARY, x)
    assert y.shape == x.shape and listing.elements["add"] == x.numel()


def test_conditions_join_what_numbers_decide_and_what_neurons_decide():
    def joined(x, state, p):
        (v,) = state
        open_ = (p.gate > 0.0) & (x > 0.0)
        shut = ~(x > 0.5) | (p.gate > 0.0)
        return words.where(open_, 1.0, words.where(shut, 3.0, 0.25)), (v,)

    x = torch.randn(4, 5)
    for gate in (1.0, -1.0):
        neuron = Neuron(joined, params={"gate": gate})
        expected, _ = spikeloom.run(neuron, x)
        with Listing():
            found, _ = spikeloom.run(neuron, x)
        assert torch.equal(found, expected)


def test_the_operations_of_a_step_are_seen_nowhere_else():
    class Refined(Listing):
        """A user's own, made from a known one."""

    x = torch.rand(4, 5)
    with Unknown() as unknown:
        spikeloom.run(neurons.IF(), x)
        assert counting_modes() == []
    assert "add" not in unknown.elements
    with Refined() as refined:
        assert counting_modes() == [refined]
        with uncounted():
            assert counting_modes() == []
            torch.ones(3).exp()
    assert not refined.elements
