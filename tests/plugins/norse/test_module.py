"""Cells and sequences made of any neuron; H numbers are those of Norse's conformance list."""

import copy
import inspect
import pickle
import subprocess
import sys

import nirtorch.nir_interpreter
import norse.torch as snn
import pytest
import torch
from norse.torch import LIFBoxFeedForwardState
from norse.torch.utils.state import _is_module_stateful
from torch import nn
from torch.utils import _pytree as pytree

import spikeloom
from spikeloom import Gated, PerStep, neurons
from spikeloom.kernel.vocabulary import fire, lookup
from spikeloom.plugins import norse
from spikeloom.plugins.contract import adaptive, grid, lif, same
from spikeloom.plugins.norse.named import named_tuple

BOTH = pytest.mark.parametrize("make", [norse.make, norse.make_cell], ids=["sequence", "cell"])


def two_ways(x, state, p):
    """Two inputs, two outputs, one state."""
    v = state[0] + x[0] - x[1]
    s = fire(v - p.threshold, strict=True)
    return (s, v), (v - s,)


def summed_first(x, state, p):
    (v,) = state
    s = fire(v - p.theta)
    return s * p.theta, (v - s * p.theta,)


def few_spike():
    """The input enters once, as a sum; four spikes leave."""
    theta = PerStep(torch.tensor([8.0, 4.0, 2.0, 1.0]))
    return spikeloom.Neuron(
        summed_first, params={"theta": theta}, begin=lambda x, state, p: (state[0] + x,), steps=4
    )


@BOTH
def test_norse_finds_the_state_by_the_signature(make):
    """H 1."""
    module = make(lif())
    parameters = list(inspect.signature(module.forward).parameters)
    assert parameters == ["input_tensor", "state", "lengths"][: len(parameters)]
    assert inspect.signature(module.forward).parameters["state"].default is None
    assert _is_module_stateful(module)
    assert nirtorch.nir_interpreter._is_stateful(module)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4, 5), (0, 3)])
def test_a_cell_takes_one_step_and_a_sequence_has_time_first(shape):
    """H 2."""
    y, state = norse.make_cell(adaptive())(grid(*shape))
    assert y.shape == state.v.shape == state.a.shape == shape
    y, state = norse.make(adaptive())(grid(6, *shape))
    assert y.shape == (6, *shape)
    assert state.v.shape == state.a.shape == shape


@BOTH
def test_a_state_is_a_named_tuple_of_whole_tensors(make):
    """H 3."""
    _, state = make(adaptive())(grid(4, 3))
    assert state._fields == ("v", "a")
    assert type(state).__bases__ == (tuple,)
    leaves, structure = pytree.tree_flatten(state)
    same(tuple(leaves), tuple(state))
    assert type(pytree.tree_unflatten(leaves, structure)) is type(state)
    for twin in (pickle.loads(pickle.dumps(state)), copy.deepcopy(state)):
        assert type(twin) is type(state)
        same(twin, state)


def test_named_tuples_are_found_again_by_name():
    """H 3: in another process, where they have not been imported yet."""
    made = named_tuple("Parameters", ("tau", "beta"))
    assert named_tuple("Parameters", ("tau", "beta")) is made
    text = pickle.dumps(made)
    named_tuple.cache_clear()
    restored = pickle.loads(text)
    assert restored is not made
    assert restored._fields == made._fields
    assert pickle.loads(pickle.dumps(named_tuple("Empty", ()))) is named_tuple("Empty", ())
    with pytest.raises(AttributeError, match="unknown"):
        norse.named.unknown  # noqa: B018 -- the access itself is tested


@BOTH
def test_a_passed_state_is_left_unchanged(make):
    """H 5."""
    module, x = make(adaptive()), grid(4, 3)
    _, state = module(x)
    before = copy.deepcopy(state)
    module(x, state)
    same(state, before)


@BOTH
def test_one_number_as_a_state_serves_all_neurons(make):
    start = torch.tensor(0.5, requires_grad=True)
    y, last = make(lif())(grid(3, 4), (start,))
    shape = (4,) if make is norse.make else (3, 4)
    expected = make(lif())(grid(3, 4), (torch.full(shape, 0.5),))
    same((y, last), expected)
    same(make(lif())(grid(3, 4), (0.5,)), expected)
    last.v.sum().backward()
    assert start.grad.shape == ()


@pytest.mark.parametrize("implementation", ["llvm", "eager"])
def test_record_states_stacks_every_leaf_over_time(implementation):
    """H 7."""
    x = grid(5, 2, 3)
    module = norse.make(adaptive(), record_states=True, implementation=implementation)
    y, recorded = module(x)
    cell, state, states, outputs = norse.make_cell(adaptive()), None, [], []
    for now in x:
        output, state = cell(now, state)
        states.append(state)
        outputs.append(output)
    same(y, torch.stack(outputs))
    assert recorded._fields == ("v", "a")
    for name in recorded._fields:
        same(getattr(recorded, name), torch.stack([getattr(state, name) for state in states]))


def test_recorded_states_carry_gradients():
    """H 7."""
    x = grid(5, 3).requires_grad_()
    _, recorded = norse.make(adaptive(), record_states=True)(x)
    (recorded.v.sum() + 2 * recorded.a.sum()).backward()
    z = x.detach().clone().requires_grad_()
    cell, state, total = norse.make_cell(adaptive()), None, torch.zeros(())
    for now in z:
        _, state = cell(now, state)
        total = total + state.v.sum() + 2 * state.a.sum()
    total.backward()
    assert x.grad.abs().sum() > 0
    torch.testing.assert_close(x.grad, z.grad)


def test_record_states_without_states_or_steps():
    """H 7."""
    plain = spikeloom.Neuron(lambda x, state, p: (2.0 * x, ()), state=())
    y, state = norse.make(plain, record_states=True)(grid(4, 3))
    same(y, 2 * grid(4, 3))
    assert state == ()
    y, state = norse.make(lif(), record_states=True)(torch.empty(0, 3))
    assert y.shape == state.v.shape == (0, 3)


@BOTH
def test_learnable_parameters_belong_to_the_module(make):
    """H 10."""
    rise, tau = nn.Parameter(torch.tensor(0.5)), torch.full((3,), 2.0)
    module = make(adaptive(rise=rise, tau=tau))
    assert dict(module.named_parameters()) == {"rise": rise}
    assert list(module.state_dict()) == ["rise", "tau"]
    assert module.p._fields == ("tau", "rise")
    assert module.p.rise is rise
    module.double()
    assert module.p.rise.dtype == module.p.tau.dtype == torch.float64
    y, state = module(grid(4, 3).double())
    assert y.dtype == state.v.dtype == torch.float64
    module.to("meta")
    assert module.p.rise.is_meta


@BOTH
def test_the_parameter_tuple_is_read_only_and_shows_every_kind(make):
    """H 10."""
    module = make(few_spike())
    same(module.p.theta, torch.tensor([8.0, 4.0, 2.0, 1.0]))
    same(make(lif()).p.tau, torch.tensor(2.0))
    with pytest.raises(AttributeError):
        module.p = module.p


def test_a_parameter_may_not_hide_an_attribute_of_the_module():
    def step(x, state, p):
        return x * p.p, state

    neuron = spikeloom.Neuron(step, params={"p": torch.ones(3)})
    with pytest.raises(ValueError, match="'p'; give the state or parameter another name"):
        norse.make(neuron)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_fallback_state_is_at_rest_and_requires_no_grad(dtype):
    """H 11: Norse's own first state requires grad, which costs a graph and a compiled break."""
    resting = spikeloom.Neuron(lambda x, s, p: (x, s), state={"v": -0.5, "a": 0.0})
    wide = torch.promote_types(dtype, torch.float32)
    x = grid(4, 3).to(dtype).requires_grad_()
    for module, shape in ((norse.make_cell(resting), (4, 3)), (norse.make(resting), (3,))):
        state = module.state_fallback(x)
        same(state.v, torch.full(shape, -0.5, dtype=wide))
        same(state.a, torch.zeros(shape, dtype=wide))
        assert not state.v.requires_grad
        _, last = module(x, state)
        same(tuple(last), tuple(state))
    assert module.state_fallback(x.to("meta")).v.is_meta


def test_ten_steps_train():
    """H 13."""
    torch.manual_seed(0)
    linear, cell = nn.Linear(4, 3), norse.make_cell(lif(tau=nn.Parameter(torch.tensor(2.0))))
    optimizer = torch.optim.Adam([*linear.parameters(), *cell.parameters()], lr=0.05)
    x = torch.rand(10, 8, 4)
    losses = []
    for _ in range(10):
        state, total = None, 0
        for now in x:
            y, state = cell(linear(now), state)
            total = total + y
        loss = (total / 10 - 0.3).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert cell.tau.item() != 2.0
    assert losses[-1] < losses[0] / 2


@BOTH
def test_a_detached_state_cuts_the_graph(make):
    """H 13."""
    x, module = grid(4, 3).requires_grad_(), make(lif())
    _, state = module(x)
    now = grid(4, 3, seed=1).requires_grad_()
    y, _ = module(now, type(state)(*(leaf.detach() for leaf in state)))
    y.sum().backward()
    assert now.grad.abs().sum() > 0
    assert x.grad is None


@BOTH
# torch warns that compressed layouts may change.
@pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC) tensor support is in beta state:UserWarning")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_sparse_input_is_refused_with_the_remedy(make, layout):
    """H 14: a single input and any of several, by modules, by their first state and the step."""
    dense = grid(4, 3)
    sparse = dense.to_sparse(layout=layout)
    box = norse.LIFBox if make is norse.make else norse.LIFBoxCell
    several = make(spikeloom.Neuron(two_ways, params={"threshold": 1.0}, inputs=2))
    for call, x in (
        (make(lif()), sparse),
        (make(lif()).state_fallback, sparse),
        (box(), sparse),
        (several, (sparse, dense)),
        (several, (dense, sparse)),
        (norse.lif_box_feed_forward_step, sparse),
    ):
        with pytest.raises(TypeError, match=rf"{layout}; call input_tensor\.to_dense\(\) first"):
            call(x)


@BOTH
def test_wrong_inputs_and_states_are_named(make):
    module, x = make(adaptive()), grid(4, 3)
    with pytest.raises(TypeError, match="input_tensor: must be a tensor, got list"):
        module([1.0, 2.0])
    with pytest.raises(TypeError, match="state: must be a tuple"):
        module(x, [x, x])
    with pytest.raises(TypeError, match="must be a tuple of"):
        module(x, named_tuple("State", ("a", "v"))(x, x))
    with pytest.raises(ValueError, match="state 'v'"):
        module(x, (torch.zeros(7), torch.zeros(7)))
    with pytest.raises(ValueError, match="needs the tuple"):
        module(x, (torch.zeros(3),))


def breaks(module, x):
    torch._dynamo.reset()
    found = torch._dynamo.explain(module)(x)
    return found.graph_break_count


@BOTH
def test_modules_compile_into_one_graph(make):
    """H 15."""
    module = make(adaptive(rise=nn.Parameter(torch.tensor(0.5))))
    x = grid(4, 3)
    assert breaks(module, x) == 0
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    y, state = compiled(x)
    expected, last = module(x)
    same(y, expected)
    same(state, last)
    (state.v.sum() + state.a.sum()).backward()
    assert module.rise.grad is not None


@BOTH
def test_modules_can_be_copied_after_a_forward(make):
    """H 15."""
    module = make(lif(tau=nn.Parameter(torch.tensor(2.0))))
    x = grid(4, 3).requires_grad_()
    y, _ = module(x)
    twin = copy.deepcopy(module)
    same(twin(x)[0], y)
    with torch.no_grad():
        twin.tau.fill_(8.0)
    assert module.tau.item() == 2.0
    assert not torch.equal(twin(x)[0], y)


def test_several_inputs_and_outputs_are_tuples():
    neuron = spikeloom.Neuron(two_ways, params={"threshold": 1.0}, inputs=2)
    x = (grid(5, 3), grid(5, 3, seed=1))
    (s, v), last = norse.make(neuron)(x)
    cell, state = norse.make_cell(neuron), None
    for t in range(5):
        (s_now, v_now), state = cell((x[0][t], x[1][t]), state)
        same((s_now, v_now), (s[t], v[t]))
    same(state, last)
    (_, _), recorded = norse.make(neuron, record_states=True)(x)
    same(recorded.v[-1], last.v)


def test_a_neuron_that_sums_first_answers_a_value_with_its_spikes():
    x = torch.tensor([5.0, 10.0])
    spikes, state = norse.make_cell(few_spike())(x)
    same(spikes.sum(0), x)
    assert spikes.shape == (4, 2)
    same(state.v, torch.zeros(2))
    same(norse.make(few_spike())(torch.stack([x, x]) / 2)[0], spikes)


def test_gated_tables_work_in_both_forms():
    def step(x, state, p):
        v, row = state
        v = v + x
        s = fire(v - lookup(p.theta, row))
        return s, (v - s, row)

    theta = nn.Parameter(torch.tensor([[1.0, 1.0], [3.0, 3.0]]))
    neuron = spikeloom.Neuron(step, state=("v", "row"), params={"theta": Gated(theta)})
    module = norse.make(neuron)
    start = (torch.zeros(2), torch.tensor([0.0, 1.0]))
    y, _ = module(torch.full((2, 2), 2.0), start)
    same(y, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    same(module.p.theta, theta)


def test_a_cell_refuses_a_parameter_that_changes_with_time():
    def step(x, state, p):
        return x * p.gain, state

    def neuron(*gains):
        return spikeloom.Neuron(step, params={"gain": PerStep(torch.tensor(gains))})

    same(norse.make(neuron(2.0, 3.0))(torch.ones(2, 1))[0], torch.tensor([[2.0], [3.0]]))
    same(norse.make_cell(neuron(2.0))(torch.ones(1))[0], torch.tensor([2.0]))
    with pytest.raises(ValueError, match=r"'gain' changes with time.*use the sequence"):
        norse.make_cell(neuron(2.0, 3.0))


def test_the_repr_tells_what_runs_and_why():
    assert "'auto' (llvm)" in repr(norse.make(lif()))
    untraceable = spikeloom.Neuron(lambda x, state, p: (torch.tanh(x), state))
    module = norse.make_cell(untraceable)
    assert "'auto' (eager: the step of" in repr(module)
    assert "cannot be traced" in module.implementation_reason
    assert norse.make(lif()).implementation_reason == ""
    assert "none: " in repr(norse.make(lif(), implementation="cupy"))
    assert ", dt=0.002, implementation=" in repr(norse.LIFBoxCell(dt=0.002))
    assert "record_states=True, implementation=" in repr(norse.LIFBox(record_states=True))


def test_a_class_of_a_neuron_is_three_lines():
    class LIF(norse.SpikeloomSequence, describes=neurons.LIF):
        """The neuron's arguments are the class's."""

    class LIFCell(norse.SpikeloomCell, describes=neurons.LIF):
        """The neuron's arguments are the class's."""

    x = grid(5, 3)
    y, recorded = LIF(2.0, v_reset=None, record_states=True, implementation="eager")(x)
    same(y, norse.make(neurons.LIF(2.0, v_reset=None))(x)[0])
    assert recorded.v.shape == (5, 3)
    same(LIFCell(4.0)(x)[0], norse.make_cell(neurons.LIF(4.0))(x)[0])
    assert list(inspect.signature(LIFCell).parameters)[:2] == ["tau", "v_threshold"]
    assert list(inspect.signature(LIF).parameters)[-2:] == ["record_states", "implementation"]
    with pytest.raises(ValueError, match="tau"):
        LIF(tau=0.5)


@pytest.mark.parametrize("cls", [norse.LIFBoxCell, norse.LIFBox, norse.SpikeloomCell])
@pytest.mark.parametrize("name", ["activation", "activation_sparse", "initial_state"])
def test_what_norses_own_modules_call_is_refused_in_a_subclass(cls, name):
    with pytest.raises(TypeError, match=rf"Mine: {name} is never called"):
        type("Mine", (cls,), {name: lambda self, *args: None})


@pytest.mark.parametrize("base", [norse.LIFBoxCell, norse.LIFBox])
def test_a_subclass_says_where_its_neurons_begin_as_in_norse(base):
    class Begins(base):
        def state_fallback(self, input_tensor):
            return self.state_type(super().state_fallback(input_tensor).v + 0.5)

    class Host(snn.LIFBoxCell):
        def initial_state(self, input_tensor):
            return LIFBoxFeedForwardState(torch.full_like(input_tensor, 0.5))

    x = torch.full((3,), 2.0)
    expected = Host()(x)
    x = x[None] if base is norse.LIFBox else x
    spikes, state = Begins()(x)
    same((spikes.view(3), state.v), (expected[0], expected[1].v))
    module = base()
    module.state_fallback = lambda x: LIFBoxFeedForwardState(torch.full((3,), 0.5))
    same(module(x)[1].v, state.v)


EXPORTED = {
    "LIFBoxCell()": (norse.LIFBoxCell, (2, 3)),
    "LIFBox(record_states=True)": (lambda: norse.LIFBox(record_states=True), (4, 2, 3)),
    "make(neurons.LIF())": (lambda: norse.make(neurons.LIF()), (4, 2, 3)),
    "make_cell(adaptive())": (lambda: norse.make_cell(adaptive()), (2, 3)),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_program_is_saved_and_loaded_with_its_state(name, tmp_path):
    make, shape = EXPORTED[name]
    module, x = make(), torch.full(shape, 20.0)
    expected, state = module(x)
    torch.export.save(torch.export.export(module, (x,), strict=False), tmp_path / "program.pt2")
    loaded = torch.export.load(tmp_path / "program.pt2").module()
    found, after = loaded(x)
    same(found, expected)
    assert type(after) is type(state)
    same(tuple(after), tuple(state))


def test_a_saved_program_is_loaded_by_another_process_that_has_made_the_module(tmp_path):
    path = str(tmp_path / "program.pt2")
    module, x = norse.make_cell(neurons.LIF()), torch.full((2, 3), 1.5)
    torch.export.save(torch.export.export(module, (x,), strict=False), path)
    lines = (
        "import torch",
        "from spikeloom import neurons",
        "from spikeloom.plugins import norse",
        "norse.make_cell(neurons.LIF())",
        f"y, state = torch.export.load({path!r}).module()(torch.full((2, 3), 1.5))",
        "assert state.v.eq(0.75).all(), state",
    )
    command = [sys.executable, "-W", "ignore", "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
