"""Calls that are remembered: nothing that has changed since may be used."""

import contextlib
import copy
import pickle
import threading
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import forward_ad

import spikeloom
from spikeloom import Gated, Neuron, PerStep
from spikeloom.kernel.call import run_step
from spikeloom.kernel.known import REMEMBERED, settled
from spikeloom.kernel.neuron import tensor_of
from spikeloom.kernel.vocabulary import fire, lookup
from spikeloom.neurons import LIF, Leaky
from spikeloom.neurons.surrogate import ATan


def leaky(x, state, p):
    """A step with a parameter of each kind that is a tensor."""
    (v,) = state
    h = p.scalar * v + p.neuron * x + p.step * lookup(p.table, 0.0 * v)
    s = fire(h - 1.0, ATan())
    return s, (h - s,)


def make(steps=3, neurons=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.rand(shape, generator=generator, dtype=dtype)

    params = {
        "scalar": random(),
        "neuron": random(neurons) + 1.0,
        "step": PerStep(random(steps)),
        "table": Gated(random(2, steps)),
    }
    return Neuron(leaky, params=params)


def tensors_of(neuron):
    return [tensor for value in neuron.params.values() if (tensor := tensor_of(value)) is not None]


def equal(neuron, x, *args, **options):
    """Whether a call has the results of the step on tensors, gradients included."""
    leaves = [t for t in (x, *tensors_of(neuron)) if t.requires_grad]
    found, expected = (
        spikeloom.run(neuron, x, *args, implementation=how, **options) for how in ("auto", "eager")
    )
    pairs = [(found[0], expected[0]), *zip(found[1], expected[1], strict=True)]
    torch.testing.assert_close([a for a, _ in pairs], [b for _, b in pairs], rtol=0, atol=0)
    if leaves and torch.is_grad_enabled():
        grads = (
            torch.autograd.grad(result[0].sum() + result[1][0].sum(), leaves)
            for result in (found, expected)
        )
        torch.testing.assert_close(*grads)
    return True


def test_a_call_is_remembered_and_its_values_are_not():
    neuron = make()
    for seed in range(3):
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
        assert equal(neuron, x)
    assert len(neuron.known_calls) == 1


@pytest.mark.parametrize("index", range(4), ids=["scalar", "neuron", "step", "table"])
def test_a_parameter_that_changes_in_place_is_read_anew(index):
    neuron, x = make(), torch.randn(3, 4)
    before = spikeloom.run(neuron, x)[1][0]
    tensors_of(neuron)[index].mul_(1.5)
    assert equal(neuron, x)
    assert not torch.equal(spikeloom.run(neuron, x)[1][0], before)


@pytest.mark.parametrize("index", range(4), ids=["scalar", "neuron", "step", "table"])
def test_a_parameter_that_gets_other_memory_is_read_there(index):
    neuron, x = make(), torch.randn(3, 4)
    assert equal(neuron, x)
    tensor = tensors_of(neuron)[index]
    tensor.data = torch.rand(*tensor.shape, 2)[..., 0] + 0.5
    assert equal(neuron, x)


def test_a_parameter_that_changes_its_shape_or_dtype_is_checked_anew():
    neuron, x = make(), torch.randn(3, 4)
    assert equal(neuron, x)
    neuron.params["neuron"].data = torch.rand(1)
    assert equal(neuron, x)
    neuron.params["neuron"].data = torch.rand(3)
    with pytest.raises(ValueError, match="does not broadcast"):
        spikeloom.run(neuron, x)
    neuron.params["neuron"].data = torch.rand(4, dtype=torch.float64)
    with pytest.raises(TypeError, match="float64"):
        spikeloom.run(neuron, x)


@pytest.mark.parametrize("index", range(4), ids=["scalar", "neuron", "step", "table"])
def test_a_parameter_may_begin_and_cease_to_require_a_gradient(index):
    neuron, x = make(), torch.randn(3, 4)
    for wanted in (False, True, False, True):
        tensors_of(neuron)[index].requires_grad_(wanted)
        assert equal(neuron, x)
        assert spikeloom.run(neuron, x)[0].requires_grad == wanted
        with torch.no_grad():
            assert not spikeloom.run(neuron, x)[0].requires_grad


def test_an_input_may_change_all_that_is_not_its_values():
    neuron = LIF(tau=2.5, surrogate=ATan())
    x = torch.randn(6, 4, 5)
    inputs = [x, x.transpose(1, 2), x[:, :, ::2], x[::2], x.flip(0), x.expand(2, 6, 4, 5)[0], x[:1]]
    for _ in range(2):
        for now in inputs:
            for dtype in (torch.float32, torch.float64, torch.float16):
                for wanted in (False, True):
                    leaf = now.detach().to(dtype).requires_grad_(wanted)
                    found, (v,) = spikeloom.run(neuron, leaf)
                    eager, (u,) = spikeloom.run(neuron, leaf, implementation="eager")
                    assert torch.equal(found, eager) and torch.equal(v, u)
                    assert found.dtype == dtype and found.requires_grad == wanted


def test_a_state_may_change_all_that_is_not_its_values():
    neuron, x = LIF(), torch.randn(3, 4)
    states = [None, (torch.ones(4),), (torch.ones(8)[::2] * 0.3,), (torch.ones(()).expand(4),)]
    states.append((torch.full((4,), 0.4, requires_grad=True),))
    for _ in range(2):
        for state in states:
            assert equal(neuron, x, state)
    spikeloom.run(neuron, x, states[1])
    with pytest.raises(ValueError, match="neurons' shape"):
        spikeloom.run(neuron, x, (torch.ones(5),))
    with pytest.raises(TypeError, match="float64"):
        spikeloom.run(neuron, x, (torch.ones(4, dtype=torch.float64),))
    with pytest.raises(ValueError, match="needs the tuple"):
        spikeloom.run(neuron, x, [torch.ones(4)])


def test_given_parameters_are_told_apart():
    neuron, x = make(), torch.randn(3, 4)
    others = make().params
    for given in ({}, {"neuron": torch.rand(4)}, {"neuron": torch.rand(1)}, dict(others)):
        assert equal(neuron, x, params=given)
    spikeloom.run(neuron, x, params={"scalar": torch.tensor([0.5])})
    for given in ({"step": torch.rand(3)}, {"neuron": torch.tensor(1.0)}, {"scalar": 2.0}):
        with pytest.raises(ValueError, match="of kind"):
            spikeloom.run(neuron, x, params=given)
    with pytest.raises(ValueError, match="got 'none'"):
        spikeloom.run(neuron, x, params={"none": torch.rand(4)})


def test_given_numbers_are_told_apart_by_their_bits():
    def step(x, state, p):
        (v,) = state
        return p.number * x, (v + p.number * x,)

    neuron, x = Neuron(step, params={"number": 1.0}), torch.ones(1, 2)
    for number in (0.5, 0.0, -0.0, 2.0, -0.0, 0.0):
        y, _ = spikeloom.run(neuron, x, params={"number": number})
        assert torch.equal(y.signbit(), torch.tensor(number).signbit().expand(1, 2))
        assert torch.equal(y, torch.full((1, 2), number))
    with pytest.raises(ValueError, match="finite"):
        spikeloom.run(neuron, x, params={"number": float("nan")})


def test_what_is_asked_for_is_told_apart():
    neuron, x = LIF(), torch.randn(5, 4)
    options = [{}, {"reduce": "sum"}, {"reduce": "mean"}, {"record": "v"}]
    options.append({"record": "v", "reduce": "sum"})
    for _ in range(2):
        for option in options:
            results = [
                spikeloom.run(neuron, x, implementation=how, **option) for how in ("auto", "eager")
            ]
            torch.testing.assert_close(*results)
    for wrong in ({"reduce": ["sum"]}, {"record": ["v"]}, {"implementation": ["auto"]}):
        with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
            spikeloom.run(neuron, x, **wrong)


def test_copies_and_pickles_share_nothing_that_is_known():
    neuron, x = make(), torch.randn(3, 4)
    spikeloom.run(neuron, x)
    for other in (copy.copy(neuron), copy.deepcopy(neuron)):
        assert other.known_calls == {} != neuron.known_calls
        assert equal(other, x)
    lif = LIF(tau=3.0)
    spikeloom.run(lif, x)
    other = pickle.loads(pickle.dumps(lif))
    assert other.known_calls == {} and equal(other, x)


def test_only_so_many_calls_are_remembered():
    neuron = LIF()
    for length in range(1, REMEMBERED + 20):
        assert spikeloom.run(neuron, torch.ones(length, 2))[0].shape == (length, 2)
    assert 0 < len(neuron.known_calls) <= REMEMBERED


def test_autocast_changes_nothing():
    neuron, x = Leaky(0.5), torch.randn(4, 6)
    expected = spikeloom.run(neuron, x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(spikeloom.run(neuron, x), expected, rtol=0, atol=0)


def test_what_looks_on_is_never_passed_by():
    neuron, x = LIF(surrogate=ATan()), torch.randn(3, 2, 4)
    expected, _ = spikeloom.run(neuron, x[:, 0])
    mapped, _ = torch.vmap(lambda x: spikeloom.run(neuron, x), in_dims=1, out_dims=(1, 0))(x)
    assert torch.equal(mapped[:, 0], expected)
    gradient = torch.func.grad(lambda x: spikeloom.run(neuron, x)[0].sum())(x[:, 0])
    leaf = x[:, 0].clone().requires_grad_()
    spikeloom.run(neuron, leaf)[0].sum().backward()
    assert torch.equal(gradient, leaf.grad)
    with torch.profiler.profile() as profile:
        spikeloom.run(neuron, x[:, 0])
    assert any(event.key == "spikeloom::scan" for event in profile.key_averages())


def test_saved_tensors_may_come_back_in_another_layout():
    neuron = LIF(surrogate=ATan())
    x = torch.randn(5, 6, 4).transpose(1, 2).requires_grad_()
    spikeloom.run(neuron, x)[0].square().sum().backward()
    expected, x.grad = x.grad, None
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.Tensor.contiguous):
        y, _ = spikeloom.run(neuron, x)
    y.square().sum().backward()
    assert torch.equal(x.grad, expected)


def test_gradients_may_arrive_in_any_layout():
    neuron, x = LIF(surrogate=ATan()), torch.randn(5, 4, 6, requires_grad=True)
    arriving = torch.randn(5, 6, 4)
    layouts = [
        arriving.transpose(1, 2),
        arriving.transpose(1, 2).contiguous(),
        torch.ones(()),
        None,
    ]
    for gradient in layouts * 2:
        full = gradient if gradient is None else gradient.expand(5, 4, 6)
        found = []
        for how in ("auto", "eager"):
            y, (v,) = spikeloom.run(neuron, x, implementation=how)
            outputs, grads = ([v], [torch.ones(4, 6)]) if full is None else ([y], [full])
            found += torch.autograd.grad(outputs, [x], grads)
        torch.testing.assert_close(*found)


def test_threads_may_share_a_neuron():
    neuron = LIF(tau=2.5, surrogate=ATan())
    inputs = [torch.randn(1 + i % 7, 3 + i % 5) for i in range(70)]
    expected = [spikeloom.run(LIF(tau=2.5), x)[0] for x in inputs]
    wrong = []

    def work(first):
        for _ in range(5):
            for i in range(first, len(inputs), 2):
                leaf = inputs[i].clone().requires_grad_()
                y, _ = spikeloom.run(neuron, leaf)
                y.sum().backward()
                wrong.extend([] if torch.equal(y, expected[i]) else [i])

    threads = [threading.Thread(target=work, args=(n % 2,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_nan_is_refused_by_a_remembered_call_too():
    neuron, x = LIF(), torch.zeros(4, 3)
    spikeloom.run(neuron, x)
    x[2, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN after 4 steps"):
        spikeloom.run(neuron, x)


def two(x, state, p):
    """Two inputs, two outputs, two states."""
    a, b = x
    v, w = state
    h = 0.5 * v + p.neuron * a
    s = fire(h - 1.0, ATan())
    return (s, h * b), (h - s, w + b)


LAYOUTS = {
    "dense": torch.randn(3, 4),
    "turned": torch.randn(4, 3).t(),
    "strided": torch.randn(3, 8)[:, ::2],
    "expanded": torch.randn(()).expand(3, 4),
    "double": torch.randn(3, 4, dtype=torch.float64),
}


@pytest.mark.parametrize("x", list(LAYOUTS.values()), ids=list(LAYOUTS))
@pytest.mark.parametrize("used", ["both", "first", "second", "state"])
def test_a_step_equals_a_sequence_of_one_step(x, used):
    neuron = Neuron(
        two, state=("v", "w"), params={"neuron": torch.rand(4, requires_grad=True)}, inputs=2
    )
    (p,) = tensors_of(neuron)
    rest = tuple(torch.rand(3, 4, dtype=x.dtype).requires_grad_() for _ in range(2))
    for state in (None, rest, None, rest):
        xs = x.detach().requires_grad_(), x.detach().flip(0).requires_grad_()
        leaves = [*xs, *(state or ()), p]
        found, ws = run_step(neuron, xs, state)
        expected, us = spikeloom.run(neuron, tuple(x[None] for x in xs), state)
        expected = tuple(y[0] for y in expected)
        grads = []
        for y, w in ((found, ws), (expected, us)):
            parts = {"both": y, "first": y[:1], "second": y[1:], "state": w[:1]}[used]
            total = sum(part.square().sum() for part in parts)
            grads.append(torch.autograd.grad(total, leaves, materialize_grads=True))
        torch.testing.assert_close((found, ws), (expected, us), rtol=0, atol=0)
        torch.testing.assert_close(*grads)


def test_a_step_of_one_neuron_without_axes_runs():
    x = torch.tensor(1.5, requires_grad=True)
    for _ in range(2):
        y, (v,) = run_step(LIF(tau=2.0, v_reset=None, surrogate=ATan()), x)
        assert (y.shape, v.item()) == ((), 0.75)
        assert torch.autograd.grad(v, x)[0] != 0


def test_a_step_is_followed_through_hooks_and_second_derivatives():
    neuron, x = LIF(surrogate=ATan()), torch.randn(4, 3).t().requires_grad_()
    for _ in range(2):
        plain = torch.autograd.grad(run_step(neuron, x)[0].square().sum(), x)
        with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.Tensor.contiguous):
            y, _ = run_step(neuron, x)
        assert torch.equal(torch.autograd.grad(y.square().sum(), x)[0], plain[0])
        (graph,) = torch.autograd.grad(run_step(neuron, x)[0].sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="second derivative"):
            graph.sum().backward()


def test_a_step_is_checked_as_a_sequence_is():
    neuron = LIF()
    for wrong, error in ((torch.ones(3).to_sparse(), TypeError), ("x", TypeError)):
        with pytest.raises(error, match="x: must be"):
            run_step(neuron, wrong)
    with pytest.raises(ValueError, match="neurons' shape"):
        run_step(neuron, torch.ones(3), (torch.ones(4),))
    y, (v,) = run_step(neuron, torch.tensor([1, 3]))
    assert y.tolist() == [0.0, 1.0] and v.tolist() == [0.5, 0.0]
    mapped = torch.vmap(lambda x: run_step(neuron, x)[0])(torch.randn(2, 5))
    assert mapped.shape == (2, 5)


def test_on_a_gpu_a_call_is_remembered_once_its_constants_are_there(monkeypatch):
    waited, device = [], torch.device("cuda", 0)
    stream = SimpleNamespace(synchronize=lambda: waited.append(1))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert settled(device) and waited == [1]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert not settled(device) and waited == [1]
    assert settled(torch.device("cpu")) and waited == [1]


def test_a_call_in_inference_mode_leaves_nothing_to_calls_with_gradients():
    neuron, x = LIF(tau=2.0), torch.rand(4, 3, requires_grad=True)
    with torch.inference_mode(), torch.enable_grad(), contextlib.suppress(RuntimeError):
        spikeloom.run(neuron, x)
    spikes, _ = spikeloom.run(neuron, x)
    spikes.sum().backward()
    assert x.grad is not None


def test_forward_mode_derivatives_are_refused_on_first_and_on_known_calls():
    neuron, x = LIF(tau=2.0), torch.rand(4, 3)
    spikeloom.run(neuron, x)
    for fresh in (neuron, LIF(tau=2.0)):
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="use reverse mode"):
            spikeloom.run(fresh, forward_ad.make_dual(x, x))
    with pytest.raises(NotImplementedError, match="use reverse mode"):
        torch.func.jvp(lambda x: spikeloom.run(neuron, x)[0], (x,), (x,))
