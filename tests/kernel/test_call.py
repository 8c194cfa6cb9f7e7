"""Bad calls get one clear error that names the argument, its value and the remedy."""

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import spikeloom
from spikeloom import Gated, Neuron, PerStep, neurons
from spikeloom.kernel import choose
from spikeloom.kernel.vocabulary import fire
from spikeloom.neurons import LIF, Leaky

X = torch.zeros(4, 3)


def scaled(x, state, p):
    return x * p.a, state


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: spikeloom.run(LIF(), [1.0]),
            TypeError,
            r"x: must be a tensor \[T, ...\], got list",
        ),
        (lambda: spikeloom.run(LIF(), torch.zeros(())), ValueError, "needs a time axis"),
        (lambda: spikeloom.run(LIF(), X.cfloat()), TypeError, "got torch.complex64"),
        (lambda: spikeloom.run(LIF(), (X, X)), TypeError, r"reads 1 input\(s\), got 2"),
        (
            lambda: spikeloom.run(LIF(), X, (torch.zeros(2),)),
            ValueError,
            r"shape \(3,\), got \(2,\)",
        ),
        (lambda: spikeloom.run(LIF(), X, torch.zeros(3)), ValueError, r"needs the tuple \('v',\)"),
        (
            lambda: spikeloom.run(LIF(), X, (torch.zeros(3).double(),)),
            TypeError,
            "must be torch.float32 on cpu",
        ),
        (
            lambda: spikeloom.run(LIF(), X, reduce="max"),
            ValueError,
            "'sum', 'mean' or None, got 'max'",
        ),
        (
            lambda: spikeloom.run(LIF(), X, record="u"),
            ValueError,
            r"has the states \('v',\), got 'u'",
        ),
        (lambda: spikeloom.run(LIF(), X, implementation="gpu"), ValueError, "one of auto, cupy"),
        (
            lambda: spikeloom.run(LIF(), X, implementation="cupy"),
            RuntimeError,
            "runs on cuda tensors",
        ),
        (lambda: spikeloom.run(LIF(), X, params={"beta": 1.0}), ValueError, "got 'beta'"),
        (
            lambda: spikeloom.run(LIF(), X, params={"tau": torch.tensor(2.0)}),
            ValueError,
            r"is of kind number, got scalar; .* LIF\(tau=torch.tensor\(2.0\)\)",
        ),
        (
            lambda: spikeloom.run(LIF(), X, params={"tau": "2"}),
            TypeError,
            "'tau' of LIF is a number, got '2'",
        ),
        (
            lambda: spikeloom.run(Neuron(scaled, params={"a": PerStep(torch.ones(5))}), X),
            ValueError,
            "has 5 steps, the sequence has T=4",
        ),
        (
            lambda: spikeloom.run(
                Neuron(scaled, params={"a": PerStep(torch.ones(4))}),
                X,
                params={"a": PerStep(torch.ones(2, 4))},
            ),
            ValueError,
            r"params: 'a' of scaled must have shape \[T\], got \[2, 4\]",
        ),
        (
            lambda: spikeloom.run(
                Neuron(scaled, params={"a": torch.ones(3)}), X, params={"a": torch.ones(3).long()}
            ),
            TypeError,
            "'a' of scaled must be a floating-point tensor, got torch.int64",
        ),
        (
            lambda: spikeloom.run(Neuron(scaled, params={"a": torch.ones(2)}), X),
            ValueError,
            "does not broadcast to the neurons",
        ),
        (
            lambda: spikeloom.run(Neuron(scaled, params={"a": torch.ones(3).double()}), X),
            TypeError,
            "is float64, the input torch.float32",
        ),
        (
            lambda: spikeloom.run(Neuron(scaled, params={"a": torch.ones(3, device="meta")}), X),
            TypeError,
            "is on meta, the input on cpu",
        ),
        (lambda: Neuron(scaled, params={"a": float("nan")}), ValueError, "must be finite, got nan"),
        (
            lambda: Neuron(scaled, params={"a": torch.tensor(torch.inf)}),
            ValueError,
            "scaled: a must be finite, got inf",
        ),
        (lambda: Neuron(scaled, params={"a": "2"}), TypeError, "must be a number or a tensor"),
        (lambda: Neuron(scaled, params={"a": torch.ones(2).long()}), TypeError, "floating-point"),
        (
            lambda: Neuron(scaled, params={"a": PerStep(torch.ones(2, 2))}),
            ValueError,
            r"shape \[T\]",
        ),
        (lambda: Neuron(scaled, params={"a": Gated(torch.ones(2))}), ValueError, r"shape \[G, T\]"),
        (lambda: Neuron(7), TypeError, "step: must be a function, got int"),
        (lambda: Neuron(scaled, inputs=0), ValueError, "inputs: must be at least 1, got 0"),
        (lambda: Neuron(scaled, steps=4), ValueError, "begin and steps: give both, or neither"),
        (lambda: Neuron(scaled, state={"v": torch.inf}), ValueError, "state 'v': must be finite"),
        (lambda: spikeloom.SpikingLayer("lif"), TypeError, r"such as neurons.LIF\(\), got str"),
    ],
)
def test_a_bad_call_is_explained(call, error, message):
    with pytest.raises(error, match=message):
        call()


# Every class with numbers among its parameters, the numbers by name, and an input.
NUMBERS = [
    (neurons.LIF, {"tau": 2.0, "v_threshold": 1.0}),
    (neurons.IF, {"v_threshold": 1.0}),
    (neurons.ParametricLIF, {"rate": 0.5, "v_threshold": 1.0}),
    (neurons.Leaky, {"beta": 0.9, "threshold": 1.0, "graded_spikes_factor": 1.0}),
    (
        neurons.LIFBox,
        {"tau_mem_inv": 100.0, "v_leak": 0.0, "v_th": 1.0, "v_reset": 0.0, "dt": 0.001},
    ),
    (neurons.Trace, {"decay": 0.5, "synaptic_decay": 0.5}),
    (neurons.ElasticBiSpike, {"alpha": 1.0}),
    (neurons.OAT, {"normal": 1.0, "outlier": 8.0}),
    (neurons.SignGD, {"scale": 1.0}),
    (lambda **numbers: neurons.SignTracker([0.5, 0.25], 2, **numbers), {"scale": 1.0}),
    (lambda **numbers: Neuron(scaled, params=numbers), {"a": 1.0}),
]


def refusal(act):
    """The message of a ValueError, None if there is none."""
    try:
        act()
    except ValueError as error:
        return str(error)
    return None


EDGES = [math.nan, math.inf, -math.inf, 0.0, -1.0, 0.5, 1.0, 8.0, 1e6]


@settings(deadline=None, max_examples=60)
@given(st.one_of(st.sampled_from(EDGES), st.floats(-10, 10)))
def test_a_call_refuses_the_numbers_that_the_constructor_refuses(value):
    x = torch.zeros(2, 3)
    for make, numbers in NUMBERS:
        neuron = make(**numbers)
        for name in numbers:
            wanted = refusal(lambda: make(**{**numbers, name: value}))  # noqa: B023
            found = refusal(lambda: spikeloom.run(neuron, x, params={name: value}))  # noqa: B023
            assert found == wanted, (neuron, name, value)


def test_each_number_has_values_that_are_refused():
    for make, numbers in NUMBERS:
        for name in numbers:
            with pytest.raises(ValueError, match=name):
                spikeloom.run(make(**numbers), torch.zeros(2, 3), params={name: math.nan})


def test_a_call_takes_numbers_of_any_type():
    x = 2 * torch.rand(6, 5)
    for number in (3, np.float32(3), np.int64(3)):
        y, _ = spikeloom.run(LIF(), x, params={"tau": number})
        assert torch.equal(y, spikeloom.run(LIF(tau=3.0), x)[0])


def test_ranges_are_compared_with_those_of_the_neuron_and_of_the_call():
    neuron, x = neurons.OAT(4, normal=1.0, between=[2.0], outlier=8.0), torch.ones(1, 3)
    with pytest.raises(ValueError, match="outlier must be larger than between_0 everywhere"):
        spikeloom.run(neuron, x, params={"outlier": 1.5})
    y, _ = spikeloom.run(neuron, x, params={"outlier": 1.5, "between_0": 1.25})
    assert torch.equal(y, spikeloom.run(neurons.OAT(4, 1.0, 1.5, [1.25]), x)[0])


class Operations(TorchDispatchMode):
    """The torch operations of a block, by name."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_the_values_of_tensors_are_not_read():
    """A learned value may leave its range, and to look at it would stop a GPU."""
    neuron, x = LIF(torch.tensor(2.0), torch.ones(2)), torch.ones(3, 2)
    beyond = {"tau": torch.tensor(0.5), "v_threshold": torch.zeros(2)}
    for params in (None, beyond):
        with Operations() as done:
            spikeloom.run(neuron, x, params=params, implementation="eager")
        assert "stack" in done.names
        assert not done.names & {"_local_scalar_dense", "isfinite", "all"}
    with Operations() as done:
        LIF(torch.tensor(2.0))
    assert "_local_scalar_dense" in done.names


def test_a_compiled_call_takes_a_number_that_changes_and_refuses_one_out_of_range():
    neuron, x = LIF(), 2 * torch.rand(4, 8)

    def call(x, tau):
        return spikeloom.run(neuron, x, params={"tau": tau})[0]

    torch._dynamo.reset()
    for fullgraph in (True, False):
        compiled = torch.compile(call, backend="aot_eager", fullgraph=fullgraph)
        for tau in (2.0, 3.0, 4.5):
            assert torch.equal(compiled(x, tau), call(x, tau))
    with pytest.raises(ValueError, match=r"LIF: tau .* got 0.5"):
        compiled(x, 0.5)


def test_two_inputs_must_agree():
    neuron = Neuron(lambda x, s, p: (x[0] + x[1], s), inputs=2)
    with pytest.raises(ValueError, match=r"got \(4, 2\) float32 on cpu beside \(4, 3\)"):
        spikeloom.run(neuron, (X, torch.zeros(4, 2)))


def test_a_missing_kernel_falls_back_only_when_it_was_not_asked_for(monkeypatch):
    monkeypatch.setitem(choose.MISSING, "llvm", "llvm is not installed")
    assert choose.choose("auto", "cpu") == ("eager", "llvm is not installed")
    assert choose.choose("auto", "mps") == ("eager", "there is no kernel for mps tensors")
    with pytest.raises(RuntimeError, match="not available: llvm is not installed"):
        choose.choose("llvm", "cpu")


def test_float32_parameters_serve_a_float64_input():
    neuron = Neuron(scaled, params={"a": torch.full((3,), 0.5)})
    y, _ = spikeloom.run(neuron, X.double() + 1)
    assert torch.equal(y, torch.full((4, 3), 0.5, dtype=torch.float64))


def test_the_kernel_honours_numbers_that_are_and_are_not_powers_of_two():
    x = torch.rand(6, 50) * 3
    for tau in (2.0, 4.0, 3.0, 1e31, 1.0):
        found, expected = (
            spikeloom.run(LIF(tau=tau), x, implementation=name) for name in ("llvm", "eager")
        )
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1][0], expected[1][0])


def test_repr_shows_what_was_set():
    assert repr(Leaky(torch.nn.Parameter(torch.tensor(0.9)))) == "Leaky(beta=0.9 (learned))"
    assert repr(Neuron(scaled, params={"a": PerStep(torch.ones(2))})) == "scaled(a=PerStep([2]))"


def test_importing_spikeloom_loads_no_optional_package():
    code = (
        "import sys, spikeloom; "
        "print([m for m in ('llvmlite', 'cupy', 'nir', 'nirtorch', 'matplotlib', 'spikingjelly', "
        "'snntorch', 'norse', 'transformers', 'spikeloom.plugins') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("given", [LIF, "LIF", torch.rand(2)], ids=["class", "str", "x"])
def test_what_is_no_neuron_is_refused(given):
    with pytest.raises(TypeError, match=r"neuron: must be a spikeloom.Neuron such as neurons.LIF"):
        spikeloom.run(given, torch.rand(3, 2))


def test_sparse_input_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"x: must be dense, .* pass x.to_dense\(\)"):
        spikeloom.run(LIF(), torch.rand(3, 2).to_sparse())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"state": "mem"}, r"state: must be names such as \('v',\).* got 'mem'"),
        ({"state": ("v", "v")}, r"state: names a state twice"),
        ({"params": ["w"]}, r"params: must be name -> value, got \['w'\]"),
        ({"params": {"w": PerStep([1.0])}}, r"PerStep must hold a tensor, got \[1.0\]"),
    ],
)
def test_a_description_that_cannot_be_meant_is_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Neuron(lambda x, state, p: (x, state), **arguments)


def test_numbers_of_numpy_are_numbers():
    neuron = Neuron(lambda x, state, p: (x * p.w, state), params={"w": np.float32(2)})
    assert torch.equal(spikeloom.run(neuron, torch.ones(1, 2))[0], torch.full((1, 2), 2.0))


def test_a_graph_recorded_for_another_length_does_not_read_beyond_its_input():
    layer = spikeloom.SpikingLayer(LIF())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every value that becomes fixed
        traced = torch.jit.trace(layer, torch.rand(6, 2, 3), check_trace=False)
    x = torch.rand(6, 2, 3) * 3
    assert torch.equal(traced(x), layer(x))
    with pytest.raises(RuntimeError, match=r"recorded for T=6, the input has 2 steps"):
        traced(x[:2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("implementation", ["llvm", "eager"])
def test_a_recorded_state_is_not_rounded_to_16_bits(implementation, dtype):
    x = (2 * torch.rand(6, 5)).to(dtype).requires_grad_()
    neuron = LIF(tau=3.0)
    y, (v,), seq = spikeloom.run(neuron, x, record="v", implementation=implementation)
    assert (y.dtype, v.dtype, seq.dtype) == (dtype, torch.float32, torch.float32)
    wide, _, expected = spikeloom.run(neuron, x.float(), record="v", implementation="eager")
    assert torch.equal(seq, expected) and torch.equal(seq[-1], v) and torch.equal(y, wide.to(dtype))
    found, plain = (
        torch.autograd.grad(out.float().sum(), x)[0]
        for out in (y, spikeloom.run(neuron, x, implementation=implementation)[0])
    )
    assert found.dtype == dtype
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("implementation", ["llvm", "eager"])
def test_reduced_and_recorded_outputs_of_16_bits_keep_their_dtypes(implementation):
    x = (2 * torch.rand(6, 5)).bfloat16()
    y, (v,), seq = spikeloom.run(LIF(), x, record="v", reduce="mean", implementation=implementation)
    assert (y.dtype, v.dtype, seq.dtype) == (torch.bfloat16, torch.float32, torch.float32)


def spike_and_trace(x, state, p):
    """Spikes that nothing can learn from, and two states that something can."""
    v, trace = state
    h = 0.5 * v + p.gain * x
    s = fire(h - 1.0)
    return (s, p.height * s, h), (h - s, 0.9 * trace + s)


@pytest.mark.parametrize("record", [None, "v", "trace"])
@pytest.mark.parametrize("reduce", [None, "sum"])
@pytest.mark.parametrize("learned", ["x", "gain", "height", "v", "trace", "nothing"])
def test_results_require_a_gradient_where_those_of_the_step_do(learned, reduce, record):
    found = {
        how: requiring(learned, record=record, reduce=reduce, implementation=how)
        for how in ("auto", "eager")
    }
    spikes, high, potential, v, trace, *seq = found["auto"]
    assert found["eager"] == found["auto"]
    assert (spikes, high, trace) == (False, learned == "height", learned == "trace")
    assert potential == v == (learned in ("x", "gain", "v"))
    assert seq == ([] if record is None else [{"v": v, "trace": trace}[record]])


def requiring(learned, x=None, **options):
    def leaf(name, value):
        return value.requires_grad_() if name == learned else value

    x = leaf("x", torch.randn(4, 3)) if x is None else x
    params = {name: leaf(name, torch.tensor(1.5)) for name in ("gain", "height")}
    state = tuple(leaf(name, torch.rand(3)) for name in ("v", "trace"))
    neuron = Neuron(spike_and_trace, state=("v", "trace"), params=params)
    y, ws, *seq = spikeloom.run(neuron, x, state, **options)
    return [result.requires_grad for result in (*y, *ws, *seq)]


def test_in_a_transformation_results_require_a_gradient_where_they_may():
    seen = []
    torch.func.grad(lambda x: (seen.append(requiring("nothing", x)), x.sum())[1])(torch.ones(4, 3))
    assert seen == [[False, True, True, True, True]]


def test_a_compiled_call_requires_a_gradient_where_the_step_does():
    for learned in ("x", "height"):
        compiled = torch.compile(requiring, backend="aot_eager")
        assert compiled(learned) == requiring(learned)


def test_a_surrogate_of_zero_cuts_the_graph_as_no_surrogate_does():
    class Nothing:
        def derivative(self, u):
            return 0.0

    x = torch.randn(4, 3, requires_grad=True)
    for how in ("auto", "eager"):
        y, (v,) = spikeloom.run(LIF(v_reset=None, surrogate=Nothing()), x, implementation=how)
        assert not y.requires_grad and v.requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        y.sum().backward()
