"""Replayed calls beside spikeloom.run on the same views."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import spikeloom
from spikeloom import Gated, Neuron, PerStep
from spikeloom.kernel.replay import Replay
from spikeloom.kernel.vocabulary import lookup, maximum, where
from spikeloom.neurons import IF, LIF


def kinds(steps, neurons):
    """A neuron with a parameter of each kind, two inputs, and states that rest elsewhere."""

    def step(x, state, p):
        a, b = x
        v, w = state
        row = where(w > p.number, 2.0, 0.0 * w)
        v = p.neuron * v + maximum(a, p.scalar * b) + p.step * lookup(p.table, row)
        return v - w, (v, 0.5 * w + a)

    generator = torch.Generator().manual_seed(steps)
    params = {
        "number": 0.7,
        "neuron": torch.randn(neurons, generator=generator),
        "scalar": torch.randn((), generator=generator),
        "step": PerStep(torch.randn(steps, generator=generator)),
        "table": Gated(torch.randn(3, steps, generator=generator)),
    }
    return Neuron(step, state={"v": 0.25, "w": 1.5}, params=params, inputs=2)


def tensors_of(neuron):
    return [
        value.values if isinstance(value, (PerStep, Gated)) else value
        for value in neuron.params.values()
        if not isinstance(value, float)
    ]


@settings(deadline=None, max_examples=60)
@given(
    steps=st.integers(1, 5),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    constant=st.booleans(),
)
def test_windows_are_read_where_they_are(steps, sizes, strides, constant):
    rows, (batch, height, width), (down, right) = 1 if constant else steps, sizes, strides
    x = torch.randn(rows, batch, height * down, width * right).expand(steps, -1, -1, -1)
    views = (x[..., ::down, ::right], x[..., down - 1 :: down, right - 1 :: right])
    neuron = kinds(steps, width)
    expected, _ = spikeloom.run(neuron, views)
    found = Replay(neuron, x, tensors_of(neuron), views)(x)
    assert torch.equal(found, expected)


def test_parameters_follow_the_order_of_the_axes():
    neuron = LIF(tau=2.0, v_threshold=torch.rand(5, 1) + 0.5)
    x = torch.randn(4, 6, 3, 5).movedim(-1, 2)
    expected, _ = spikeloom.run(neuron, x)
    assert torch.equal(Replay(neuron, x, [neuron.params["v_threshold"]])(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("neuron", [LIF(tau=2.3), IF(v_reset=None)], ids=["LIF", "IF"])
def test_other_values_of_the_same_layout_can_follow(neuron, dtype):
    first = torch.randn(7, 3, 50, dtype=dtype).transpose(1, 2)
    replay = Replay(neuron, first, [])
    for x in (first, torch.randn(7, 3, 50, dtype=dtype).transpose(1, 2)):
        assert Replay.key(x, []) == Replay.key(first, [])
        expected, _ = spikeloom.run(neuron, x)
        assert torch.equal(replay(x), expected) and replay(x).stride() == expected.stride()


def test_many_neurons_are_shared_among_threads():
    x = torch.randn(16, 2, 40_000)
    views = (x[..., ::2], x[..., 1::2])
    neuron = kinds(16, 20_000)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = Replay(neuron, x, tensors_of(neuron), views)(x)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found, spikeloom.run(neuron, views, implementation="eager")[0])


def test_nan_is_refused_as_by_run():
    x = torch.zeros(4, 3)
    replay = Replay(LIF(), x, [])
    x[2, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN after 4 steps"):
        replay(x)


def test_the_key_tells_layouts_and_parameters_apart():
    x, scale = torch.randn(4, 6, 2), torch.ones(2)
    key = Replay.key(x, [scale])
    assert key == Replay.key(torch.randn(4, 6, 2), [scale])
    assert key != Replay.key(x.transpose(1, 2).contiguous().transpose(1, 2), [scale])
    assert key != Replay.key(x[:3], [scale]) != Replay.key(x, [scale.clone()])
    scale.mul_(2.0)
    assert key != Replay.key(x, [scale])


class CountedFunctions(TorchFunctionMode):
    """Known for a counter by its package."""

    __module__ = "spikingjelly.activation_based.op_counter.functions"

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Watching(TorchDispatchMode):
    """A mode that does nothing but look."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def test_what_others_look_at_is_not_replayed():
    x = torch.randn(4, 3)
    assert Replay.key(x, []) is not None
    for mode in (Watching(), CountedFunctions()):
        with mode:
            assert Replay.key(x, []) is None
    seen = []
    torch.func.vmap(lambda row: seen.append(Replay.key(row, [])) or row)(x[None])
    assert seen == [None]


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(4, 3, dtype=torch.float16),
        torch.zeros(4, 0),
        torch.zeros(0, 3),
        torch.zeros(4, 3, device="meta"),
        torch.zeros(4, 3, requires_grad=True),
    ],
    ids=["half", "no neuron", "no step", "no memory", "gradient"],
)
def test_other_tensors_are_not_replayed(x):
    assert Replay.key(x, []) is None


def test_parameters_of_another_kind_are_not_replayed():
    x = torch.zeros(4, 3)
    learned = torch.ones(3, requires_grad=True)
    assert Replay.key(x, [learned]) is None
    with torch.no_grad():
        assert Replay.key(x, [learned]) is not None
    assert Replay.key(x, [torch.ones(3, dtype=torch.float64)]) is None
    with torch.inference_mode():
        assert Replay.key(x, [torch.ones(3)]) is None
