"""LIFNode, IFNode and ParametricLIFNode beside SpikingJelly's own; H as in its conformance list."""

import copy
import inspect
import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import parametric_lif_net
from torch import nn

from spikeloom.neurons import IF
from spikeloom.neurons import surrogate as ours
from spikeloom.plugins import spikingjelly as loom
from spikeloom.plugins.contract import grid, same, weight

PAIRS = [
    (loom.LIFNode, neuron.LIFNode),
    (loom.IFNode, neuron.IFNode),
    (loom.ParametricLIFNode, neuron.ParametricLIFNode),
]
BUILT_IN = [
    surrogate.Sigmoid(),
    surrogate.ATan(alpha=3.0),
    surrogate.PiecewiseQuadratic(alpha=1.5),
    surrogate.PiecewiseExp(),
    surrogate.SoftSign(alpha=2),
    surrogate.SuperSpike(),
    surrogate.Erf(),
]
OTHERS = [surrogate.LeakyKReLU(), surrogate.S2NN()]


def name_of(value):
    return type(value).__name__ if isinstance(value, nn.Module) else None


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.5


def trained(node, x, v=None):
    """Spikes, potential and the gradients with respect to input, first potential, parameters."""
    x = x.clone().requires_grad_()
    node.step_mode = "m"
    if v is not None:
        v = v.clone().requires_grad_()
        node.v = v
    y = node(x)
    (y * weight(y) + node.v * weight(node.v)).sum().backward()
    grads = [x.grad, *([] if v is None else [v.grad]), *(p.grad for p in node.parameters())]
    return y.detach(), node.v.detach(), grads


def assert_equal_to_the_host(mine, theirs, x, v=None):
    (y, last, grads), (z, end, expected) = trained(mine, x, v), trained(theirs, x, v)
    assert 0 < y.mean() < 1
    same(y, z)
    same(last, end)
    for own, reference in zip(grads, expected, strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize("v_reset", [0.0, None, -0.25])
@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("function", BUILT_IN, ids=name_of)
def test_lif_equals_the_host(function, decay_input, v_reset, detach_reset):
    """H 13: spikes and potentials to the last bit, gradients to 1e-5."""
    settings = {
        "tau": 1.7,
        "decay_input": decay_input,
        "v_threshold": 0.6,
        "v_reset": v_reset,
        "surrogate_function": function,
        "detach_reset": detach_reset,
    }
    mine = loom.LIFNode(**settings)
    assert mine.implementation_reason == ""
    assert_equal_to_the_host(mine, neuron.LIFNode(**settings), random(12, 3, 50), random(3, 50))


@pytest.mark.parametrize(("cls", "host"), PAIRS[1:], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("v_reset", [0.0, None])
def test_if_and_plif_equal_the_host(cls, host, v_reset):
    settings = {"v_reset": v_reset, "surrogate_function": surrogate.ATan()}
    assert_equal_to_the_host(cls(**settings), host(**settings), random(12, 3, 50), random(3, 50))


PARAMETRIC = (loom.ParametricLIFNode, neuron.ParametricLIFNode)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("v_reset", [0.0, None, -0.25])
@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("init_tau", [1.05, 1.5, 2.0, 3.0, 10.0, 100.0])
def test_a_learned_time_constant_of_any_length_equals_the_host(
    init_tau, decay_input, v_reset, dtype
):
    """H 13: spikes and potentials to the last bit, gradients to rounding."""
    settings = {"decay_input": decay_input, "v_reset": v_reset, "surrogate_function": BUILT_IN[1]}
    nodes = [cls(init_tau, v_threshold=0.6, **settings).to(dtype) for cls in PARAMETRIC]
    x, v = random(40, 3, 50).to(dtype), random(3, 50).to(dtype)
    if decay_input:
        x = x * init_tau**0.5  # else the slowest would not fire
    (y, last, grads), (z, end, expected) = (trained(node, x, v) for node in nodes)
    assert nodes[0].implementation_reason == ""
    assert 0 < y.mean() < 1
    same(y, z)
    same(last, end)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    for own, reference in zip(grads, expected, strict=True):
        torch.testing.assert_close(own, reference, rtol=tolerance, atol=tolerance)


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(
    w=st.floats(-6, 20, width=32),
    v_reset=st.sampled_from([None, 0.0, -0.25, 0.3]),
    decay_input=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_potentials_equal_the_hosts_for_every_w(w, v_reset, decay_input, dtype, seed):
    """H 13 and 18: after every step, also where w is float32 and the input float64."""
    x = 3 * random(9, 40, seed=seed).to(dtype)
    results = []
    for cls in PARAMETRIC:
        node = cls(decay_input=decay_input, v_reset=v_reset, step_mode="m", store_v_seq=True)
        with torch.no_grad():
            node.w.fill_(w)
            results.append((node(x), node.v_seq))
    same(*results)


def test_a_learned_time_constant_survives_a_change_of_attributes():
    """What is computed from w does not enter the description with its graph."""
    mine, theirs = (cls(3.0, step_mode="m") for cls in PARAMETRIC)
    for node in (mine, theirs):
        node.v_threshold = 0.5
    assert_equal_to_the_host(mine, theirs, random(12, 3, 50))
    twin = copy.deepcopy(mine)
    assert twin.w is not mine.w and torch.equal(twin.w, mine.w)
    assert float(mine.tau.detach()) == pytest.approx(3.0)
    assert float(mine.rate.detach()) == pytest.approx(1 / 3)


@pytest.mark.parametrize("function", OTHERS, ids=name_of)
def test_other_surrogates_run_themselves_and_say_so(function):
    """H 13 and 40: the fallback computes what the host does, and is reported."""
    settings = {"surrogate_function": function, "v_reset": None}
    mine = loom.LIFNode(**settings)
    assert type(function).__name__ in mine.implementation_reason
    assert "eager" in repr(mine)
    assert_equal_to_the_host(mine, neuron.LIFNode(**settings), random(8, 3, 20))


class Doubled(surrogate.ATan):
    """Not the built-in class: its gradient is another one."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_a_subclass_of_a_built_in_surrogate_is_not_taken_for_it():
    mine, host = (
        loom.LIFNode(surrogate_function=Doubled()),
        neuron.LIFNode(surrogate_function=Doubled()),
    )
    assert "Doubled" in mine.implementation_reason
    y, v, grads = trained(mine, random(6, 20))
    z, w, expected = trained(host, random(6, 20))
    same((y, v, grads), (z, w, expected))


def test_a_surrogate_without_counterpart_cannot_be_asked_of_the_kernel():
    """H 40: an explicit request is refused, not swapped."""
    node = loom.LIFNode(surrogate_function=surrogate.S2NN(), implementation="llvm")
    with pytest.raises(RuntimeError, match="S2NN"):
        node(torch.ones(3))


@pytest.mark.parametrize(("cls", "host"), PAIRS, ids=lambda cls: cls.__name__)
# SpikingJelly's SuperSpike has no continuous form.
@pytest.mark.parametrize("function", BUILT_IN[:5] + BUILT_IN[6:], ids=name_of)
def test_without_spiking_the_output_is_continuous(cls, host, function):
    """H 14."""
    function = type(function)(spiking=False)
    x = random(5, 4, 3)
    for step_mode in "sm":
        mine, theirs = (c(surrogate_function=function, step_mode=step_mode) for c in (cls, host))
        y = mine(x)
        same(y, theirs(x))
        assert not bool(((y == 0) | (y == 1)).all())


def test_spiking_may_be_switched_after_construction():
    mine, theirs = loom.LIFNode(step_mode="m"), neuron.LIFNode(step_mode="m")
    x = random(5, 4)
    for spiking in (True, False, True):
        for node in (mine, theirs):
            node.surrogate_function.set_spiking_mode(spiking)
            node.reset()
        same(mine(x), theirs(x))


def test_attributes_may_be_changed_like_the_hosts():
    mine, theirs = loom.LIFNode(step_mode="m"), neuron.LIFNode(step_mode="m")
    changes = {
        "tau": 3.0,
        "v_threshold": 0.4,
        "v_reset": None,
        "decay_input": False,
        "detach_reset": True,
        "surrogate_function": surrogate.ATan(4.0),
    }
    for name, value in changes.items():
        for node in (mine, theirs):
            setattr(node, name, value)
            node.reset()
        assert getattr(mine, name) is value
        assert_equal_to_the_host(mine, theirs, random(6, 20))
        mine.reset()
        theirs.reset()
    mine.tau = 0.5
    with pytest.raises(ValueError, match="tau"):
        mine(random(2, 3))


def test_gradients_are_those_of_finite_differences():
    """H 16: with a continuous output the whole recurrence is differentiable."""
    x = random(4, 3).double().requires_grad_()
    for v_reset in (0.0, None):
        for cls in (loom.LIFNode, loom.IFNode):

            def run(x, cls=cls, v_reset=v_reset):
                function = surrogate.Sigmoid(spiking=False)
                return cls(surrogate_function=function, v_reset=v_reset, step_mode="m")(x)

            assert torch.autograd.gradcheck(run, x)


@pytest.mark.parametrize(("cls", "host"), PAIRS, ids=lambda cls: cls.__name__)
def test_ties_are_the_hosts(cls, host):
    """H 17: potentials at the threshold, at minus the threshold and at half-integers."""
    for v_reset in (0.0, None):
        x = grid(16, 40)
        mine, theirs = cls(v_reset=v_reset, step_mode="m"), host(v_reset=v_reset, step_mode="m")
        same(mine(x), theirs(x))
        same(mine.v, theirs.v)
    levels = torch.tensor([1.0, -1.0, 0.5, -0.5, 1.5, 2.5, 2.0, math.nextafter(2.0, 0.0)])
    same(cls()(levels), host()(levels))


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize(("cls", "host"), PAIRS, ids=lambda cls: cls.__name__)
def test_stored_potentials_equal_the_hosts(cls, host, step_mode):
    """H 18: v_seq is [T, N, *], changes nothing else, and is cleared."""
    settings = {"store_v_seq": True, "step_mode": step_mode}
    mine, theirs, plain = cls(**settings), host(**settings), cls(step_mode=step_mode)
    x = random(5, 2, 3)
    for now in x if step_mode == "s" else [x]:
        same(mine(now), theirs(now))
        plain(now)
    assert mine.v_seq.shape == (5, 2, 3)
    same(mine.v_seq, theirs.v_seq)
    same(mine.v, plain.v)
    assert list(mine._memories) == ["v"]
    mine.reset()
    assert mine.v_seq is None
    mine(x[0] if step_mode == "s" else x)
    mine.store_v_seq = False
    assert mine.v_seq is None


def test_stored_potentials_carry_gradients():
    for cls in (loom.LIFNode, neuron.LIFNode):
        x, node = random(5, 7).requires_grad_(), cls(store_v_seq=True, step_mode="m")
        node(x)
        (node.v_seq * weight(node.v_seq)).sum().backward()
        if cls is loom.LIFNode:
            own = x.grad
    torch.testing.assert_close(own, x.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("cls", "host"), PAIRS, ids=lambda cls: cls.__name__)
def test_the_hosts_keywords_are_all_there(cls, host):
    """H 2: names, order and defaults; the default surrogate is a fresh Sigmoid for each node."""
    mine, theirs = (inspect.signature(c).parameters for c in (cls, host))
    assert list(mine)[: len(theirs)] == list(theirs)
    for name in theirs:
        if name != "surrogate_function":
            assert mine[name].default == theirs[name].default
    first, second = cls(), cls()
    assert type(first.surrogate_function) is surrogate.Sigmoid
    assert first.surrogate_function is not second.surrogate_function


def test_whole_numbers_are_accepted_where_the_host_fails_without_a_word():
    """H 2."""
    with pytest.raises(AssertionError):
        neuron.LIFNode(v_threshold=1, v_reset=0)
    x = random(6, 5)
    node = loom.LIFNode(tau=2, v_threshold=1, v_reset=0, step_mode="m")
    same(node(x), neuron.LIFNode(step_mode="m")(x))


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("tau", 0.5, ValueError),
        ("tau", "2", TypeError),
        ("tau", float("nan"), ValueError),
        ("v_threshold", 0.0, ValueError),
        ("v_threshold", None, TypeError),
        ("v_reset", "zero", TypeError),
        ("v_reset", float("inf"), ValueError),
        ("surrogate_function", "atan", TypeError),
        ("step_mode", "x", ValueError),
        ("implementation", "gpu", ValueError),
    ],
)
def test_a_bad_argument_is_named(argument, value, error):
    """H 2 and 40."""
    with pytest.raises(error, match=argument):
        loom.LIFNode(**{argument: value})(torch.ones(3))


@pytest.mark.parametrize("value", [1.0, 0.5, float("inf"), "2", None])
def test_a_bad_first_time_constant_is_named(value):
    with pytest.raises(ValueError, match="init_tau"):
        loom.ParametricLIFNode(init_tau=value)


def test_thresholds_and_time_constants_may_differ_between_neurons_and_learn():
    tau, threshold = torch.tensor([1.5, 3.0]), torch.tensor([0.5, 1.0])
    node = loom.LIFNode(nn.Parameter(tau), v_threshold=nn.Parameter(threshold), step_mode="m")
    assert {name for name, _ in node.named_parameters()} == {"tau", "v_threshold"}
    x = random(8, 30, 2)
    y, v, (_, tau_grad, threshold_grad) = trained(node, x)
    for i in range(2):
        single = loom.LIFNode(
            nn.Parameter(tau[i].clone()),
            v_threshold=nn.Parameter(threshold[i].clone()),
            step_mode="m",
        )
        z, w = single(x[..., i]), None
        w = single.v
        same(z.detach(), y[..., i])
        same(w.detach(), v[..., i])
        (z * weight(y)[..., i] + w * weight(v)[..., i]).sum().backward()
        torch.testing.assert_close(single.tau.grad, tau_grad[i], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(single.v_threshold.grad, threshold_grad[i], rtol=1e-5, atol=1e-5)


def test_our_own_surrogates_are_taken_as_they_are():
    x = random(6, 20)
    mine, host = (
        loom.LIFNode(surrogate_function=ours.ATan(3.0)),
        loom.LIFNode(surrogate_function=surrogate.ATan(3.0)),
    )
    same(trained(mine, x), trained(host, x))
    assert "ATan(alpha=3.0)" in repr(mine)


@pytest.mark.parametrize(("cls", "host"), PAIRS, ids=lambda cls: cls.__name__)
def test_weights_move_to_and_from_the_host(cls, host):
    """H 23: the keys are the host's, and no memory is among them."""
    expected = ["w"] if cls is loom.ParametricLIFNode else []
    node = cls(step_mode="m")
    node(random(3, 4))
    assert list(node.state_dict()) == list(host().state_dict()) == expected
    host().load_state_dict(node.state_dict(), strict=True)
    node.load_state_dict(host().state_dict(), strict=True)


def test_tensor_arguments_are_saved_under_their_names():
    """H 23: stable keys."""
    node = loom.LIFNode(tau=nn.Parameter(torch.tensor(2.0)), v_threshold=torch.ones(4))
    assert list(node.state_dict()) == ["tau", "v_threshold"]


@pytest.mark.parametrize("cls", [cls for cls, _ in PAIRS])
def test_repr_names_every_argument_and_what_runs(cls):
    """H 25 and 39."""
    text = repr(cls(v_threshold=0.7, step_mode="m"))
    for argument in inspect.signature(cls).parameters:
        assert argument.removeprefix("init_") in text
    assert "0.7" in text
    assert "implementation='auto' (llvm)" in text


def test_repr_shows_the_time_constant_as_learned():
    node = loom.ParametricLIFNode(init_tau=4.0)
    assert "tau=4," in repr(node)
    with torch.no_grad():
        node.w.fill_(0.0)
    assert "tau=2," in repr(node)


def test_autocast_trains_with_float32_states():
    """H 19."""
    net = nn.Sequential(nn.Linear(6, 5), loom.LIFNode(step_mode="m"))
    with torch.autocast("cpu", torch.bfloat16):
        y = net(random(4, 3, 6))
    assert y.dtype == torch.bfloat16
    assert net[1].v.dtype == torch.float32
    y.float().sum().backward()
    assert bool(net[0].weight.grad.isfinite().all())


def test_the_backward_pass_keeps_the_input_only():
    """H 22: 1.0 times the input, and the first state; the host keeps three times as much."""

    def saved(cls, **settings):
        storages = {}

        def note(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        x = random(16, 10, 100).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            cls(step_mode="m", **settings)(x)
        return sum(storages.values()) / (x.numel() * x.element_size())

    for settings in ({}, {"v_reset": None}, {"store_v_seq": True}):
        assert saved(loom.LIFNode, **settings) <= 1.001  # a first state at rest is one number
    assert saved(neuron.LIFNode) >= 2.5


@pytest.mark.parametrize(("cls", "host"), PAIRS, ids=lambda cls: cls.__name__)
def test_containers_drive_it_like_the_hosts(cls, host):
    """H 35."""
    x = 4 * random(5, 3, 4)
    containers = [
        lambda node: layer.MultiStepContainer(nn.Linear(4, 4), node()),
        lambda node: layer.LinearRecurrentContainer(node(), 4, 4, step_mode="m"),
        lambda node: layer.ElementWiseRecurrentContainer(node(), torch.add, step_mode="m"),
        lambda node: nn.Sequential(layer.SeqToANNContainer(nn.Linear(4, 4)), node(step_mode="m")),
    ]
    for container in containers:
        outputs = []
        for node in (cls, host):
            torch.manual_seed(0)
            outputs.append(container(node)(x).detach())
        same(*outputs)
        assert 0 < outputs[0].mean() < 1
    time_last = x.permute(1, 2, 0)
    mine, theirs = (layer.TLastMultiStepContainer(node()) for node in (cls, host))
    same(mine(time_last).detach(), theirs(time_last).detach())


@pytest.mark.parametrize("cls", [cls for cls, _ in PAIRS])
def test_the_model_zoo_takes_it_as_spiking_neuron(cls):
    """H 38: with a model that needs no torchvision."""
    outputs = []
    for spiking_neuron in (cls, dict(PAIRS)[cls]):
        torch.manual_seed(0)
        settings = {"v_threshold": 0.2, "surrogate_function": surrogate.ATan()}
        net = parametric_lif_net.MNISTNet(4, spiking_neuron=spiking_neuron, **settings)
        functional.set_step_mode(net, "m")
        outputs.append(net(torch.rand(4, 2, 1, 28, 28)).detach())
    same(*outputs)
    assert bool(outputs[0].any())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("cls", [loom.LIFNode, loom.ParametricLIFNode])
def test_compiled_it_equals_itself(cls, backend):
    """H 36: one graph, forward and backward."""
    torch._dynamo.reset()
    node, twin = cls(step_mode="m"), cls(step_mode="m")
    compiled = torch.compile(node, fullgraph=True, backend=backend)
    for seed in (0, 1):  # the second call starts from a live state
        x = random(6, 3, 4, seed=seed).requires_grad_()
        z = x.detach().clone().requires_grad_()
        y, expected = compiled(x), twin(z)
        same(y, expected)
        (y * weight(y)).sum().backward()
        (expected * weight(y)).sum().backward()
        torch.testing.assert_close(x.grad, z.grad)
        same(node.v, twin.v)
        functional.detach_net(node)
        functional.detach_net(twin)


@pytest.mark.parametrize("w", [-200.0, 200.0])
def test_attributes_change_whatever_the_learned_time_constant(w):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    spikes = []
    for cls in (loom.ParametricLIFNode, neuron.ParametricLIFNode):
        node = cls(step_mode="m", v_reset=None)
        with torch.no_grad():
            node.w.fill_(w)
        node.v_threshold = 0.5
        spikes.append(node(x).detach())
    assert torch.equal(*spikes)


def test_a_first_time_constant_beyond_what_the_rate_can_tell_is_the_hosts():
    own, theirs = (cls(init_tau=1e50) for cls in (loom.ParametricLIFNode, neuron.ParametricLIFNode))
    assert torch.equal(own.w, theirs.w) and float(own.rate.detach()) == 0.0


def test_a_time_constant_for_each_neuron_may_take_the_place_of_w():
    x = torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    results = []
    for cls in (loom.ParametricLIFNode, neuron.ParametricLIFNode):
        node = cls(step_mode="m")
        node(x)
        node.reset()
        node.w = nn.Parameter(torch.linspace(-1.0, 1.0, 4))
        y = node(x)
        y.sum().backward()
        results.append((y.detach(), node.v.detach(), node.w.grad))
    (y, v, grad), (expected, expected_v, expected_grad) = results
    assert torch.equal(y, expected) and torch.equal(v, expected_v)
    torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize("function", [surrogate.ATan(), surrogate.Rect()])
def test_an_integrate_and_fire_node_is_described_under_its_own_name(function):
    node = loom.IFNode(surrogate_function=function)
    assert isinstance(node.neuron, IF) and "IF(v_threshold=1.0" in repr(node)
    with pytest.raises(ValueError, match=r"IF: v_threshold"):
        loom.IFNode(v_threshold=-1.0, surrogate_function=function)


def test_repr_shows_a_loaded_time_constant_after_a_move():
    node = loom.LIFNode(tau=torch.tensor(2.0)).double()
    node.load_state_dict({"tau": torch.tensor(5.0)})
    assert "tau=5" in repr(node)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize(
    ("cls", "host"),
    [
        (loom.LIFNode, neuron.LIFNode),
        (loom.IFNode, neuron.IFNode),
        (loom.ParametricLIFNode, neuron.ParametricLIFNode),
    ],
)
def test_counts_of_events_are_taken_as_the_host_takes_them(cls, host, dtype):
    x = torch.randint(0, 4, (9, 3, 5)).to(dtype)
    own, theirs = cls(step_mode="m"), host(step_mode="m")
    spikes = own(x)
    same(spikes, theirs(x))
    assert spikes.dtype == theirs.v.dtype == own.v.dtype
    # The host's single steps cut the potential to an integer; ours are the sequence's.
    own.reset()
    own.step_mode = "s"
    same(torch.stack([own(now) for now in x]), spikes)
