"""Bad calls get one clear error that names the argument, its value and the remedy."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import spikeloom
from spikeloom import Gated, Neuron, PerStep
from spikeloom.kernel import choose
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
        (lambda: spikeloom.run(LIF(), X.long()), TypeError, "got torch.int64"),
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
            "is of kind number, got scalar",
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
            "NaN or infinity",
        ),
        (lambda: Neuron(scaled, params={"a": "2"}), TypeError, "must be a number, got '2'"),
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
        (lambda: spikeloom.SpikingLayer("lif"), TypeError, "must be a spikeloom.Neuron, got str"),
    ],
)
def test_a_bad_call_is_explained(call, error, message):
    with pytest.raises(error, match=message):
        call()


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
    ("settings", "message"),
    [
        ({"state": "mem"}, r"state: must be names such as \('v',\).* got 'mem'"),
        ({"state": ("v", "v")}, r"state: names a state twice"),
        ({"params": ["w"]}, r"params: must be name -> value, got \['w'\]"),
        ({"params": {"w": PerStep([1.0])}}, r"PerStep must hold a tensor, got \[1.0\]"),
    ],
)
def test_a_description_that_cannot_be_meant_is_refused(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Neuron(lambda x, state, p: (x, state), **settings)


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
