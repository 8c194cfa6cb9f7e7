"""SpikingJelly's own classes beside ours, over random settings."""

import pytest
import torch
from spikingjelly.activation_based import neuron as host
from spikingjelly.activation_based import surrogate
from torch import nn

from spikeloom import neurons
from spikeloom.modules import neuron_of, response_of
from spikeloom.plugins import NoCounterpart
from spikeloom.plugins import spikingjelly as loom
from tests.plugins.drop_ins import DropIn, cases_over, check

SURROGATES = (surrogate.Sigmoid, surrogate.ATan, surrogate.PiecewiseQuadratic)


def common(draw, low=-0.5):
    """The arguments of every node; the thresholds lie above the resets."""
    return {
        "tau": draw.choice([2.0, 3.0, 1.7, 8.0]),
        "v_threshold": draw.choice([0.5, 1.0, 0.7]),
        "v_reset": draw.choice([None, 0.0, low]),
        "surrogate_function": draw.choice(SURROGATES)(),
        "detach_reset": draw.random() < 0.5,
    }


def quadratic(draw, dtype):
    own = {"v_c": draw.choice([0.8, 0.45]), "a0": draw.choice([1.0, 0.3])}
    return (), {**common(draw), **own, "v_rest": draw.choice([0.0, 0.1])}


def exponential(draw, dtype):
    own = {"delta_T": draw.choice([1.0, 0.4]), "theta_rh": draw.choice([0.8, 1.0])}
    return (), {**common(draw), **own, "v_rest": draw.choice([0.0, 0.1])}


def izhikevich(draw, dtype):
    _, named = quadratic(draw, dtype)
    own = {"w_rest": draw.choice([0.0, 0.2]), "tau_w": draw.choice([2.0, 5.0])}
    return (), {**named, **own, "a": draw.choice([0.0, 0.3]), "b": draw.choice([0.0, 0.4])}


def scaled(draw, dtype):
    own = {"scale_reset": draw.random() < 0.5, "decay_input": draw.random() < 0.5}
    # SpikingJelly divides it by k in float32, whatever the input is.
    own["v_threshold"] = draw.choice([0.5, 1.0, 0.75])
    return (), {**common(draw), **own}


def analog(draw, dtype):
    act = draw.choice([torch.relu, torch.abs, nn.ReLU(), nn.LeakyReLU(0.25)])
    return (act, draw.random() < 0.5), {**common(draw), "decay_input": draw.random() < 0.5}


def simple(draw, dtype):
    named = common(draw)
    named["v_reset"] = draw.choice([0.0, 0.25, -0.5])
    return (), {**named, "decay_input": draw.random() < 0.5}


def behind_a_current(draw, dtype):
    named = common(draw)
    del named["tau"], named["detach_reset"]  # SpikingJelly's takes no such argument
    named["surrogate_function"] = draw.choice((*SURROGATES, surrogate.Rect))()
    decays = {name: draw.choice([0.5, 0.75, 0.9, 0.3]) for name in ("c_decay", "v_decay")}
    return (), {**named, **decays}


STATES = ("v", "w", "c")


def states_of(module):
    return [getattr(module, name) for name in STATES if hasattr(module, name)]


def run(module, x):
    """A sequence, and then a step, which goes on from it."""
    if isinstance(module, host.LIAFNode) and not isinstance(module, loom.LIAFNode):
        # SpikingJelly's sends spikes in step mode "m", whatever its function is.
        module.step_mode = "s"
        return torch.stack([module(now) for now in [*x, x[0]]]), states_of(module)
    module.step_mode = "m"
    y = module(x)
    module.step_mode = "s"
    return torch.cat([y, module(x[0])[None]]), states_of(module)


CASES = {
    "QIFNode": DropIn(loom.QIFNode, host.QIFNode, quadratic, limit=0.625),
    "EIFNode": DropIn(loom.EIFNode, host.EIFNode, exponential, margin=2e-4, limit=0.625),
    "IzhikevichNode": DropIn(loom.IzhikevichNode, host.IzhikevichNode, izhikevich, limit=0.625),
    "KLIFNode": DropIn(loom.KLIFNode, host.KLIFNode, scaled, ("k",)),
    "CUBALIFNode": DropIn(loom.CUBALIFNode, host.CUBALIFNode, behind_a_current),
    "LIAFNode": DropIn(loom.LIAFNode, host.LIAFNode, analog),
    "SimpleLIFNode": DropIn(loom.SimpleLIFNode, host.SimpleLIFNode, simple),
}
ARGUMENTS = {"LIAFNode": (torch.relu, False), "SimpleLIFNode": (2.0, True)}
KINDS = {
    "QIFNode": neurons.QIF,
    "EIFNode": neurons.EIF,
    "IzhikevichNode": neurons.Izhikevich,
    "KLIFNode": neurons.KLIF,
    "LIAFNode": neurons.LIAF,
    "CUBALIFNode": neurons.CurrentLIF,
    "SimpleLIFNode": neurons.LIF,
}


@cases_over(CASES)
def test_a_drop_in_equals_spikingjellys_own_over_random_settings(case, seeds):
    check(case, run, seeds)


@pytest.mark.parametrize("name", CASES)
def test_a_drop_in_has_a_fused_kernel_and_goes_to_spikingjellys_own(name):
    module = CASES[name].ours(*ARGUMENTS.get(name, ()))
    assert module.neuron.program is not None, module.neuron.reason
    net = nn.Sequential(nn.Linear(4, 3), module)
    if name == "LIAFNode":
        with pytest.raises(NoCounterpart, match="sends spikes in step mode 'm'"):
            loom.to_host(net)
        return
    native = loom.to_host(net, torch.rand(6, 4))
    assert type(native[1]) is CASES[name].theirs
    assert {*native.state_dict()} == {"0.weight", "0.bias", *(["1.k"] * (name == "KLIFNode"))}


@pytest.mark.parametrize("name", CASES)
def test_spikingjellys_own_has_a_description(name):
    neuron = neuron_of(CASES[name].theirs(*ARGUMENTS.get(name, ())))
    assert type(neuron) is KINDS[name]


def test_a_liaf_node_of_spikingjellys_that_sends_spikes_is_not_described_as_liaf():
    assert neuron_of(host.LIAFNode(torch.relu, False, step_mode="m")) is None


def test_calibration_knows_the_decays_of_those_that_are_linear():
    assert response_of(loom.LIAFNode(torch.relu, False, tau=4.0)).decay == 0.75
    assert response_of(host.SimpleLIFNode(4.0, True)).decay == 0.75
    for make in (loom.QIFNode, loom.EIFNode, loom.IzhikevichNode, loom.KLIFNode):
        assert response_of(make()) is None


@pytest.mark.parametrize("name", ["QIFNode", "EIFNode", "IzhikevichNode", "KLIFNode", "LIAFNode"])
def test_arguments_are_attributes_that_take_effect(name):
    x = 2 * torch.rand(9, 2, 3, generator=torch.Generator().manual_seed(0))
    module = CASES[name].ours(*ARGUMENTS.get(name, ()), step_mode="m")
    module.tau, module.v_threshold = 4.0, 0.5
    made = CASES[name].ours(*ARGUMENTS.get(name, ()), tau=4.0, v_threshold=0.5, step_mode="m")
    assert torch.equal(module(x), made(x))
    assert isinstance(module, CASES[name].theirs)


@pytest.mark.parametrize("name", CASES)
def test_functions_without_a_kernel_form_run_step_by_step(name):
    function = surrogate.LeakyKReLU()
    settings = {"surrogate_function": function}
    x = 2 * torch.rand(9, 2, 3, generator=torch.Generator().manual_seed(0))
    ours = CASES[name].ours(*ARGUMENTS.get(name, ()), **settings)
    theirs = CASES[name].theirs(*ARGUMENTS.get(name, ()), **settings)
    assert "is not one of" in ours.implementation_reason
    for found, expected in zip(run(ours, x)[0], run(theirs, x)[0], strict=True):
        torch.testing.assert_close(found, expected)


def test_a_function_of_the_user_is_sent_by_liaf():
    node = loom.LIAFNode(lambda h: h.sin(), True, step_mode="m")
    x = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(0))
    theirs = host.LIAFNode(lambda h: h.sin(), True, step_mode="m")
    assert torch.equal(run(node, x)[0], run(theirs, x)[0])
    assert node.implementation_reason


def test_settings_that_spikingjelly_refuses_are_named():
    with pytest.raises(NoCounterpart, match="refuses its settings: tau must be above 1"):
        loom.to_host(nn.Sequential(loom.QIFNode(tau=1.0)))
    with pytest.raises(NoCounterpart, match="no store_v_seq and no reset by subtraction"):
        loom.to_host(nn.Sequential(loom.SimpleLIFNode(2.0, True, v_reset=None)))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: loom.QIFNode(tau=0.5), "tau is in steps"),
        (lambda: loom.EIFNode(delta_T=0.0), "delta_T must be positive"),
        (lambda: loom.IzhikevichNode(a0=-1.0), "a0 must be positive"),
        (lambda: loom.KLIFNode(v_threshold=0.0), "v_threshold must be positive"),
    ],
)
def test_values_out_of_range_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_liaf_needs_a_function():
    with pytest.raises(TypeError, match="act must be a function, got 3"):
        loom.LIAFNode(3, False)
