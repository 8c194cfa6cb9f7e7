"""SpikeloomNode within SpikingJelly's contract; H as in its conformance list."""

import copy
import inspect
import pickle
import threading

import pytest
import torch
from spikingjelly.activation_based import base, functional, monitor, neuron, surrogate
from torch import nn

import spikeloom
from spikeloom import neurons, plugins
from spikeloom.kernel.vocabulary import fire
from spikeloom.neurons.surrogate import ATan
from spikeloom.plugins import spikingjelly as loom
from spikeloom.plugins.adapter import component
from spikeloom.plugins.contract import adaptive, grid, lif, same, weight

NODES = {
    "LIFNode": loom.LIFNode,
    "IFNode": loom.IFNode,
    "ParametricLIFNode": loom.ParametricLIFNode,
    "two states": lambda **kw: loom.SpikeloomNode(adaptive(), **kw),
    "another fire": lambda **kw: loom.LIFNode(surrogate_function=surrogate.Rect(), **kw),
}
every_node = pytest.mark.parametrize("build", NODES.values(), ids=NODES)


def memories(module):
    return tuple(base.extract_memories(module))


def few_spike(steps=4, scale=2.0):
    """A neuron of the begin kind: the summed input is coded by ``steps`` binary spikes."""

    def step(x, state, p):
        (v,) = state
        s = fire(v - p.weight, ATan())
        return s * p.weight, (v - s * p.weight,)

    weights = scale * 0.5 ** torch.arange(1.0, steps + 1)
    return spikeloom.Neuron(
        step,
        params={"weight": spikeloom.PerStep(weights)},
        begin=lambda x, state, p: (x,),
        steps=steps,
    )


def crossed_step(x, state, p):
    """Two inputs, two outputs."""
    (v,) = state
    first, second = x
    h = v + first - second
    s = fire(h - 1.0, ATan())
    return (s, h), (h - s,)


# --- The contract -----------------------------------------------------------------------------


@every_node
def test_it_is_a_base_node(build):
    """H 1, 8 and 32."""
    node = build()
    assert isinstance(node, neuron.BaseNode)
    assert node.supported_step_mode() == ("s", "m")
    assert node.step_mode == "s"
    assert next(iter(node._memories)) == "v"
    assert node._is_leaf_module is True


@every_node
@pytest.mark.parametrize("steps", [1, 2, 4, 7, 64])
def test_a_sequence_equals_its_single_steps(build, steps):
    """H 3: exactly, spikes and final states."""
    x = grid(steps, 3, 4, seed=steps)
    whole, single = build(step_mode="m"), build()
    y = whole(x)
    same(torch.stack([single(now) for now in x]), y)
    same(memories(single), memories(whole))


@every_node
def test_two_halves_equal_the_whole(build):
    """H 4."""
    x, whole, halves = grid(10, 3, 4), build(step_mode="m"), build(step_mode="m")
    y = whole(x)
    same(torch.cat([halves(x[:3]), halves(x[3:])]), y)
    same(memories(halves), memories(whole))


@every_node
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_the_functional_form_is_pure_and_backs_the_regular_one(build, step_mode):
    """H 5, 6 and 8."""
    x = grid(5, 3, 4)
    node = build(step_mode=step_mode)
    node(x)
    before = memories(node)
    states = node.materialize_states((x,), before, step_mode)
    versions = [t._version for t in (*before, *states)]
    copies = [t.detach().clone() for t in (*before, *states)]
    first = node.functional_forward((x,), states)
    second = node.functional_forward((x,), states)
    same(first, second)
    assert all(now is then for now, then in zip(memories(node), before, strict=True))
    assert [t._version for t in (*before, *states)] == versions
    same([t.detach() for t in (*before, *states)], copies)
    (y,), updated = first
    same(node(x), y)
    same(memories(node), updated)


@every_node
def test_numbers_become_tensors_that_fit_the_input(build):
    """H 8: float32 for 16-bit input, otherwise the input's dtype."""
    node = build()
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        wide = torch.promote_types(dtype, torch.float32)
        for step_mode, shape in (("s", (5, 3)), ("m", (3,))):
            x = torch.zeros(5, 3, dtype=dtype)
            for state in node.materialize_states((x,), memories(node), step_mode):
                assert (state.shape, state.dtype) == (shape, wide)
    assert all(isinstance(value, float) for value in memories(node))


@every_node
def test_nets_run_with_explicit_states(build):
    """H 7: the node, a flat Sequential, a nested one."""
    torch.manual_seed(1)
    flat = nn.Sequential(nn.Linear(4, 3), build(), nn.Linear(3, 2), build())
    nested = nn.Sequential(flat[0], nn.Sequential(flat[1], flat[2]), flat[3])
    names = {}
    for net in (build(), flat, nested):
        functional.set_step_mode(net, "m")
        functional.reset_net(net)
        x = 4 * torch.rand(5, 2, 4)
        forward = base.to_functional_forward(net)
        names[net] = forward.__name__
        states = tuple(base.extract_memories(net))
        (y,), updated = forward((x,), states)
        (z,), again = forward((x,), updated)
        assert tuple(base.extract_memories(net)) == states
        same(net(x), y)
        same(tuple(base.extract_memories(net)), updated)
        same(net(x), z)
        same(tuple(base.extract_memories(net)), again)
    assert list(names.values()) == ["direct_forward", "sequential_forward", "fallback_forward"]


@every_node
def test_reset_returns_to_rest(build):
    """H 9: also to a value that was set, and twice."""
    node, x = build(step_mode="m"), grid(5, 3)
    rest = memories(node)
    y = node(x)
    for _ in range(2):
        node.reset()
        assert memories(node) == rest
    same(node(x), y)
    start = torch.tensor([0.25, -0.5, 0.75])
    node.set_reset_value("v", start)
    node.reset()
    same(node.v, start)
    node(x)
    node.reset()
    same(node.v, start)
    assert node.get_reset_value("v") is not node.v


def test_a_clock_is_reset_with_the_rest():
    """H 9: a schedule's index is a state like any other."""

    def step(x, state, p):
        v, t = state
        s = fire(v + x - t, ATan())
        return s, (v + x - s, t + 1.0)

    clocked = spikeloom.Neuron(step, state=("v", "t"))
    node, x = loom.make(clocked), grid(6, 4).abs()
    y = node(x)
    assert bool((node.t == 6).all())
    node.reset()
    assert node.t == 0.0
    same(torch.cat([node(x[:2]), node(x[2:])]), y)


@every_node
def test_nets_reach_it(build):
    """H 10."""
    net = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ModuleDict({"node": build()})))
    node = net[1][0]["node"]
    functional.set_step_mode(net, "m")
    assert node.step_mode == "m"
    node(grid(5, 3).requires_grad_())
    functional.detach_net(net)
    assert not any(state.requires_grad for state in memories(node))
    functional.reset_net(net)
    assert all(isinstance(value, float) for value in memories(node))
    with pytest.raises(ValueError, match="step_mode"):
        node.step_mode = "x"


@every_node
def test_another_shape_starts_anew(build):
    """H 11: as the host does; dtype follows the input and keeps the values."""
    node, fresh = build(step_mode="m"), build(step_mode="m")
    node(grid(5, 3))
    same(node(grid(5, 7)), fresh(grid(5, 7)))
    carried = [value.clone() for value in memories(node)]
    node.double()
    node(grid(0, 7).double())
    same(memories(node), tuple(value.double() for value in carried))


@every_node
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_a_state_follows_the_input_to_its_device(build, step_mode):
    """H 11: the same shape on another device goes on, another shape starts anew there."""
    node = build(step_mode=step_mode)
    node(grid(5, 3))
    for shape in ((5, 3), (5, 7)):
        x = torch.empty(shape, device="meta")
        states = node.materialize_states((x,), memories(node), step_mode)
        assert all(state.is_meta for state in states)
        assert {state.shape for state in states} == {x.shape[1:] if step_mode == "m" else x.shape}
    assert not any(state.is_meta for state in memories(node))


@pytest.mark.parametrize("build", list(NODES.values())[:4], ids=list(NODES)[:4])
@pytest.mark.parametrize("store_v_seq", [False, True])
def test_every_kernel_keeps_the_input_only(build, store_v_seq):
    """H 22: 1.0 times the input for the backward pass; parameters and a rest state are numbers."""
    storages = {}

    def note(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    node, x = build(step_mode="m", store_v_seq=store_v_seq), grid(16, 10, 100).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        node(x)
    size = x.numel() * x.element_size()
    assert size <= sum(storages.values()) <= 1.001 * size


def test_a_first_potential_may_be_learned():
    """H 12: gradients reach v0 as a leaf."""
    v, node = grid(3).requires_grad_(), loom.LIFNode(step_mode="m")
    node.v = v
    y = node(grid(5, 3))
    (y * weight(y)).sum().backward()
    assert bool(v.grad.isfinite().all())
    assert bool((v.grad != 0).any())


@every_node
def test_a_second_backward_needs_detach(build):
    """H 15: truncated backpropagation works after detach_net; before, an error names it."""
    net = nn.Sequential(build(step_mode="m"))
    x = grid(5, 3).requires_grad_()
    net(x).sum().backward()
    with pytest.raises(RuntimeError, match="an earlier one has freed"):
        net(x).sum().backward()
    functional.reset_net(net)
    net(x).sum().backward()
    functional.detach_net(net)
    net(x).sum().backward()


def test_a_second_derivative_is_refused_by_the_kernel_and_right_without_it():
    """H 15."""
    x = grid(4, 3).double().requires_grad_()

    def first(node):
        return torch.autograd.grad(node(x).sum(), x, create_graph=True)[0].square().sum()

    node = loom.LIFNode(step_mode="m")
    with pytest.raises(RuntimeError, match="second derivative"):
        first(node).backward()

    def smooth(x):
        function = surrogate.Sigmoid(spiking=False)
        return loom.LIFNode(surrogate_function=function, step_mode="m")(x)

    assert torch.autograd.gradgradcheck(smooth, x)


@every_node
def test_stored_potentials_use_the_kernel_and_change_nothing(build):
    """H 18, for every neuron."""
    x, node, plain = grid(5, 2, 3), build(step_mode="m", store_v_seq=True), build(step_mode="m")
    same(node(x), plain(x))
    assert list(node._memories) == list(plain._memories)
    assert node.v_seq.shape == x.shape
    same(node.v_seq[-1], node.v)
    stepped = build(store_v_seq=True)
    for now in x:
        stepped(now)
    same(stepped.v_seq, node.v_seq)
    node.reset()
    assert node.v_seq is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@every_node
def test_every_dtype_trains(build, dtype):
    """H 19: the output has the input's dtype."""
    node, x = build(step_mode="m"), grid(5, 3).to(dtype).requires_grad_()
    if dtype == torch.float64:
        node.double()
    y = node(x)
    assert y.dtype == dtype
    y.sum().backward()
    assert x.grad.dtype == dtype
    assert bool(x.grad.isfinite().all())


@every_node
def test_unusual_inputs_work(build):
    """H 20: non-contiguous, channels_last, one and five dimensions, a single number."""
    image = grid(4, 2, 3, 5, 6)
    for x in (
        grid(5),
        grid(5, 2, 3, 4, 2),
        grid(5, 3, 4).transpose(1, 2),
        grid(9, 3)[::2],
        image.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (4, 2)),
    ):
        same(build(step_mode="m")(x), build(step_mode="m")(x.contiguous()))
    assert build()(torch.tensor(3.0)) in (0.0, 1.0)


@every_node
def test_empty_inputs_give_empty_outputs(build):
    """H 20: T=0 leaves the states, no neurons have none."""
    node = build(step_mode="m")
    assert node(torch.empty(0, 3)).shape == (0, 3)
    assert node.v.shape == (3,)
    assert build(step_mode="m")(torch.empty(4, 0, 2)).shape == (4, 0, 2)
    assert build()(torch.empty(0)).shape == (0,)


@every_node
def test_inference_keeps_nothing_and_training_follows(build):
    """H 21."""
    node = build(step_mode="m")
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            y = node(grid(5, 3))
        assert y.grad_fn is None
        node.reset()
        x = grid(5, 3).requires_grad_()
        node(x).sum().backward()
        assert x.grad is not None
        node.reset()


@every_node
def test_states_are_never_saved(build):
    """H 23: a saved net loads with another batch size."""
    net, other = nn.Sequential(build(step_mode="m")), nn.Sequential(build(step_mode="m"))
    net(grid(5, 3))
    saved = net.state_dict()
    assert not [key for key in saved if key.endswith(".v")]
    other(grid(5, 7))
    other.load_state_dict(saved, strict=True)


def test_a_neurons_tensors_are_saved_under_their_names():
    """H 23: stable keys; memories, numbers and surrogates are not among them."""
    node = loom.make(adaptive(rise=nn.Parameter(torch.tensor(0.5)), tau=torch.full((3,), 2.0)))
    assert list(node.state_dict()) == ["rise", "tau"]
    assert [name for name, _ in node.named_parameters()] == ["rise"]
    few = loom.make(few_spike())
    assert list(few.state_dict()) == ["weight"]
    assert few.weight.shape == (4,)


@every_node
def test_copies_hold_the_live_state(build):
    """H 24: also when it is part of an autograd graph, which the host's own nodes cannot."""
    node = build(step_mode="m", store_v_seq=True)
    node(grid(5, 3).requires_grad_())
    assert not node.v.is_leaf
    for twin in (copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        same([t.detach() for t in memories(node)], list(memories(twin)))
        same(twin(grid(5, 3)).detach(), copy.deepcopy(node)(grid(5, 3)).detach())
        assert twin.v.data_ptr() != node.v.data_ptr()
    # A leaf that is trained stays one.
    node.v = torch.zeros(3, requires_grad=True)
    assert copy.deepcopy(node).v.requires_grad


@every_node
def test_moving_takes_states_and_reset_values_along(build):
    """H 25."""
    node = build(step_mode="m")
    node.set_reset_value("v", torch.zeros(3))
    node(grid(5, 3))
    node.double()
    assert node.v.dtype == node.get_reset_value("v").dtype == torch.float64
    assert node(grid(5, 3).double()).dtype == torch.float64


def test_repr_shows_the_neuron_and_what_runs():
    """H 25 and 39."""
    text = repr(loom.make(neurons.Leaky(0.9, reset_mechanism="zero")))
    for part in ("Leaky(beta=0.9", "reset_mechanism='zero'", "step_mode='m'", "'auto' (llvm)"):
        assert part in text
    eager = repr(loom.make(lif(), implementation="eager"))
    assert "'eager' (eager: asked for)" in eager


@every_node
def test_monitors_record_it(build):
    """H 28."""
    net = nn.Sequential(nn.Linear(4, 3), build(step_mode="m", store_v_seq=True))
    cls = type(net[1])
    v = monitor.AttributeMonitor("v", False, net, cls)
    v_seq = monitor.AttributeMonitor("v_seq", False, net, cls)
    inputs, outputs = monitor.InputMonitor(net, cls), monitor.OutputMonitor(net, cls)
    grads = (monitor.GradInputMonitor(net, cls), monitor.GradOutputMonitor(net, cls))
    net(torch.rand(5, 2, 4)).sum().backward()
    sequence = (5, 2, 3)
    for records, shape in (
        (v, sequence[1:]),
        *((records, sequence) for records in (v_seq, inputs, outputs, *grads)),
    ):
        assert [record.shape for record in records.records] == [shape]
        assert list(records.name_records_index) == ["1"]
        records.remove_hooks()


# --- Subclasses, other shapes of neurons ---


class Leaking(loom.LIFNode):
    """Someone's own transition on top of ours."""

    def single_step_functional_forward(self, inputs, states):
        outputs, (v,) = super().single_step_functional_forward(inputs, states)
        return outputs, (0.5 * v,)


@pytest.mark.parametrize("store_v_seq", [False, True])
def test_an_overridden_transition_is_really_used(store_v_seq):
    """H 37."""
    x = grid(16, 40)
    node, stepped = Leaking(step_mode="m", store_v_seq=store_v_seq), Leaking()
    y = node(x)
    same(torch.stack([stepped(now) for now in x]), y)
    same(node.v, stepped.v)
    assert not torch.equal(y, loom.LIFNode(step_mode="m")(x))


def test_a_begin_neuron_decodes_in_single_steps_and_emits_spikes_in_sequences():
    x = torch.rand(3, 5, 2) / 2
    node = loom.make(few_spike(), store_v_seq=True)
    spikes = node(x)
    assert spikes.shape == (4, 5, 2)
    assert node.v_seq.shape == (4, 5, 2)
    torch.testing.assert_close(spikes.sum(0), x.sum(0), rtol=0, atol=2 * 0.5**4)
    node.step_mode = "s"
    same(node(x.sum(0)), spikes.sum(0))
    for state in memories(node):
        assert state.shape == (5, 2)


def test_several_inputs_and_outputs_are_arguments_and_tuples():
    crossed = spikeloom.Neuron(crossed_step, inputs=2)
    a, b = grid(5, 3), grid(5, 3, seed=1)
    node, stepped = loom.make(crossed), loom.make(crossed, step_mode="s")
    spikes, potentials = node(a, b)
    steps = [stepped(*now) for now in zip(a, b, strict=True)]
    same(torch.stack([s for s, _ in steps]), spikes)
    same(torch.stack([h for _, h in steps]), potentials)
    (y, h), _ = node.functional_forward((a, b), (0.0,))
    node.reset()
    node.store_v_seq = True
    same(node(a, b), (y, h))
    same(node.v_seq, h - y)
    with pytest.raises(TypeError, match="reads 2 input"):
        node(a)


def test_a_schedule_that_is_not_a_state_is_refused_in_single_steps():
    decay = spikeloom.PerStep(torch.tensor([1.0, 0.5, 0.25]))

    def step(x, state, p):
        v = p.decay * state[0] + x
        return v, (v,)

    node = loom.make(spikeloom.Neuron(step, params={"decay": decay}))
    same(node(torch.ones(3, 1)).flatten(), torch.tensor([1.0, 1.5, 1.375]))
    node.step_mode = "s"
    with pytest.raises(ValueError, match=r"decay.* 3 steps"):
        node(torch.ones(1))


def test_other_frameworks_neurons_run_here():
    x = grid(8, 5)
    for description in (neurons.Leaky(0.5), neurons.LIFBox(tau_mem_inv=500.0), neurons.Trace(0.5)):
        node = loom.make(description)
        expected, states = spikeloom.run(description, x)
        same(node(x), expected)
        same(memories(node), states)
        assert next(iter(node._memories)) == "v"


@pytest.mark.parametrize(
    "clashing",
    [
        {"state": ("u", "v")},
        {"state": ("v", "training")},
        {"params": {"reset": torch.tensor(1.0)}},
        {"state": ("v", "a"), "params": {"a": torch.tensor(1.0)}},
    ],
)
def test_a_name_that_the_module_needs_is_refused(clashing):
    def step(x, state, p):
        return x, tuple(value + x for value in state)

    with pytest.raises(ValueError, match="give the state or parameter another name"):
        loom.make(spikeloom.Neuron(step, **clashing))


def test_what_a_neuron_does_not_have_is_not_pretended():
    node = loom.make(neurons.Trace(0.5))
    for name in ("v_threshold", "v_reset", "detach_reset", "surrogate_function"):
        assert not hasattr(node, name)


# --- Classes in three lines ---


def leak(decay=0.5, surrogate=None):
    """A description made by a function."""
    assert surrogate is None or hasattr(surrogate, "derivative")
    return neurons.Leaky(decay, surrogate=surrogate)


def test_a_class_takes_three_lines(monkeypatch):
    from spikeloom.plugins import adapter

    monkeypatch.setattr(adapter, "_components", list(adapter._components))

    @component("leak", "a paper")
    class LeakNode(loom.SpikeloomNode, describes=leak, renamed={"surrogate_function": "surrogate"}):
        """An example."""

    assert str(inspect.signature(LeakNode)) == (
        "(decay=0.5, surrogate_function=None, *, step_mode: 'str' = 's', "
        "store_v_seq: 'bool' = False, implementation: 'str' = 'auto')"
    )
    x = grid(5, 3)
    node = LeakNode(0.25, surrogate_function=surrogate.ATan(3.0), step_mode="m")
    expected, _ = spikeloom.run(neurons.Leaky(0.25, surrogate=ATan(3.0)), x)
    same(node(x), expected)
    assert node.neuron.surrogate == ATan(3.0)
    with pytest.raises(TypeError, match="surrogate_function"):
        LeakNode(surrogate_function=surrogate.S2NN())
    with pytest.raises(TypeError, match="tau"):
        LeakNode(tau=2.0)
    assert LeakNode in [entry.cls for entry in plugins.components()]


# --- What runs, and where ---


def test_the_reason_for_eager_is_told():
    """H 39 and 40."""
    assert loom.make(lif()).implementation_reason == ""
    assert loom.make(lif(), implementation="eager").implementation_reason == "asked for"
    assert "move it there" in loom.make(lif(), implementation="cupy").implementation_reason

    def step(x, state, p):
        return torch.relu(x), state

    node = loom.make(spikeloom.Neuron(step))
    assert "cannot be traced" in node.implementation_reason
    assert "eager: the step" in repr(node)


@every_node
def test_replicas_share_no_memory(build):
    """H 41: DataParallel's copies."""
    node = build(step_mode="m")
    first, second = (node._replicate_for_data_parallel() for _ in range(2))
    # DataParallel gives a replica its parameters itself.
    for replica in (first, second):
        replica._parameters = node._parameters
    first(grid(5, 3))
    second(grid(5, 7))
    assert first.v.shape == (3,)
    assert second.v.shape == (7,)
    assert isinstance(node.v, float)


def test_two_threads_may_use_copies_of_a_node():
    """H 41."""
    node, x = loom.LIFNode(step_mode="m"), grid(64, 100)
    expected = copy.deepcopy(node)(x)
    results = {}

    def work(number):
        own = copy.deepcopy(node)
        for _ in range(20):
            own.reset()
            results[number] = own(x)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(2):
        same(results[number], expected)


@pytest.mark.parametrize("build", [NODES["two states"]])
def test_compiled_it_equals_itself(build):
    """H 36, for a neuron with two states and stored potentials."""
    torch._dynamo.reset()
    node, twin = (build(step_mode="m", store_v_seq=True) for _ in range(2))
    compiled = torch.compile(node, fullgraph=True, backend="aot_eager")
    x, z = grid(6, 3).requires_grad_(), grid(6, 3).requires_grad_()
    y, expected = compiled(x), twin(z)
    same(y, expected)
    same(node.v_seq, twin.v_seq)
    (y * weight(y) + node.v_seq).sum().backward()
    (expected * weight(y) + twin.v_seq).sum().backward()
    torch.testing.assert_close(x.grad, z.grad)


def test_fx_keeps_it_whole():
    """H 32: a tracer that honours ``_is_leaf_module`` sees one call of the node."""

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return getattr(module, "_is_leaf_module", False) or super().is_leaf_module(module, name)

    net = nn.Sequential(nn.Linear(3, 4), loom.LIFNode(step_mode="m"))
    targets = [n.target for n in Tracer().trace(net).nodes if n.op == "call_module"]
    assert targets == ["0", "1"]


@pytest.mark.parametrize("cls", [loom.LIFNode, loom.IFNode, loom.OATNode, loom.SpikeloomNode])
@pytest.mark.parametrize(
    "method",
    ["neuronal_charge", "neuronal_fire", "neuronal_reset", "apply_soft_reset", "jit_hard_reset"],
)
def test_a_method_that_older_releases_called_is_refused_in_a_subclass(cls, method):
    remedy = rf"Mine: {method} is never called.*spikeloom.Neuron.*plugins.spikingjelly.make"
    with pytest.raises(TypeError, match=remedy):
        type("Mine", (cls,), {method: lambda self, *args: None})
    mixin = type("Mixin", (), {method: lambda self, *args: None})
    with pytest.raises(TypeError, match=remedy):
        type("Mine", (mixin, cls), {})


def test_a_subclass_with_methods_of_its_own_is_made():
    class Mine(loom.LIFNode):
        def rate(self, x):
            return self(x).mean(0)

    class Deeper(Mine):
        pass

    assert Deeper(step_mode="m").rate(torch.full((4, 1), 1.5)).item() == 0.5


def test_single_steps_of_a_subclass_are_the_steps_of_its_sequences():
    class Halved(loom.LIFNode):
        def single_step_forward(self, x):
            return 0.5 * super().single_step_forward(x)

    x = grid(6, 2, 3)
    node, plain = Halved(step_mode="m", store_v_seq=True), loom.LIFNode(step_mode="m")
    same(node(x), 0.5 * plain(x))
    same(node.v, plain.v)
    assert node.v_seq.shape == x.shape
