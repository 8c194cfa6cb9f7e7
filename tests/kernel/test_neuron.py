"""A neuron is what its kernel was made from: it does not change, and makes others."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import Gated, Neuron, PerStep, SpikingLayer, neurons
from spikeloom.kernel.neuron import kind
from spikeloom.neurons import LIF
from spikeloom.neurons.surrogate import ATan

TABLE = neurons.FewSpike([2.0, 1.0], [2.0, 1.0], [2.0, 1.0])


def leaky(x, state, p):
    (v,) = state
    v = p.beta * v + p.gain * x
    return v, (v,)


def begun(x, state, p):
    return (x,)


def halved(x, state, p):
    (v,) = state
    return v * 0.5, (v * 0.5,)


def squared(x):
    return x * x


# One of every class, and plain ones.
MADE = [
    neurons.LIF(3.0, v_reset=-0.5, surrogate=ATan(3.0)),
    neurons.IF(0.7, v_reset=None),
    neurons.ParametricLIF(0.3, decay_input=False),
    neurons.Leaky(0.9, reset_mechanism="zero"),
    neurons.LIFBox(200.0, reset_method="subtract"),
    neurons.Trace(0.5, 0.25),
    neurons.ElasticBiSpike(torch.tensor([0.5, 1.0, 2.0]), reset="symmetric"),
    neurons.OAT(4, normal=1.0, between=[2.0], outlier=8.0),
    TABLE,
    neurons.HG([0.0], [TABLE, TABLE], strict=False),
    neurons.LinearHG([-1.0, 0.0, 1.0], [1.0, 2.0], [0.0, 1.0], 4),
    neurons.SignGD("leaky_relu", negative_slope=0.1),
    neurons.SignGD(squared, [0.5, 0.25]),
    neurons.SignGDBits((0.0, 1.0), (1.0, 2.0), "maximum"),
    neurons.SignTracker([1.0, 0.5, 0.25], steps=3),
    neurons.AnalogEncoder(),
    neurons.ALIF(3.0, v_reset=None),
    neurons.AdEx(delta_T=0.25),
    neurons.Alpha(0.9, 0.8),
    neurons.CubaLI(v_leak=0.1),
    neurons.CubaLIF(v_th=0.5),
    neurons.EIF(3.0),
    neurons.IAF(0.5),
    neurons.Izhikevich(a=0.02, b=0.2),
    neurons.CurrentLIF(0.5, 0.75, v_reset=None),
    neurons.CurrentLIF(torch.full((5,), 0.5), 0.75, v_reset=-0.25),
    neurons.KLIF(0.5, scale_reset=True),
    neurons.LI(50.0),
    neurons.LIAF(threshold_related=True),
    neurons.Lapicque(5.0, 0.2),
    neurons.QIF(a0=0.5),
    neurons.Synaptic(0.9, 0.8, reset_mechanism="zero"),
    Neuron(leaky, params={"beta": 0.9, "gain": PerStep(torch.ones(3))}, name="named"),
    Neuron(halved, begin=begun, steps=3),
]
named = pytest.mark.parametrize("neuron", MADE, ids=lambda neuron: neuron.name)


def test_every_class_of_neuron_is_tried():
    public = (getattr(neurons, name) for name in neurons.__all__)
    classes = {cls for cls in public if isinstance(cls, type) and issubclass(cls, Neuron)}
    assert classes <= {type(neuron) for neuron in MADE}


@named
def test_no_public_attribute_can_be_set_or_deleted(neuron):
    shown, before = repr(neuron), dict(vars(neuron))
    public = [name for name in before if not name.startswith("_")]
    assert {"step", "params", "rest", "kinds", "program", "name"} <= set(public)
    for name in (*public, *neuron.settings(), "unheard_of"):
        with pytest.raises(AttributeError, match=name):
            setattr(neuron, name, 5)
        with pytest.raises(AttributeError, match=name):
            delattr(neuron, name)
    assert repr(neuron) == shown
    assert vars(neuron) == before


@named
def test_no_parameter_state_or_setting_can_be_exchanged(neuron):
    mappings = [neuron.params, neuron.rest, neuron.kinds, neuron.rules]
    if isinstance(neuron, (neurons.SignGD, neurons.SignGDBits, neurons.SignTracker)):
        mappings.append(neuron.constants)
    for values in mappings:
        for name in (*values, "unheard_of"):
            with pytest.raises(TypeError, match=name):
                values[name] = 5


def test_the_error_names_the_attribute_the_value_and_the_remedy():
    lif = LIF(tau=3.0)
    with pytest.raises(
        AttributeError, match=r"LIF: tau cannot be set to 5, .*make a new neuron, .*replace\("
    ):
        lif.tau = 5
    with pytest.raises(AttributeError, match=r"program cannot be set to None, .* make a new"):
        lif.program = None
    with pytest.raises(TypeError, match=r"'tau': cannot be set to 5, .*neuron.replace\(tau=...\)"):
        lif.params["tau"] = 5
    with pytest.raises(TypeError, match=r"'v': cannot be set to 1\.0"):
        lif.rest["v"] = 1.0


def test_a_class_that_sets_what_its_step_reads_too_late_is_told():
    class Late(Neuron):
        def __init__(self):
            super().__init__(self._step)
            self.gain = 2.0

        def settings(self):
            return {"gain": self.gain}

        def _step(self, x, state, p):
            return x * self.gain, state

    with pytest.raises(AttributeError, match=r"gain.*before it calls super\(\).__init__\(\)"):
        Late()


def test_private_attributes_may_be_set():
    lif = LIF()
    lif._note = "mine"
    assert lif._note == "mine"
    del lif._note


@named
def test_copies_and_pickles_are_equal_and_do_not_change_either(neuron):
    for twin in (copy.deepcopy(neuron), copy.copy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert repr(twin) == repr(neuron) and twin.program == neuron.program
        with pytest.raises(AttributeError, match="program"):
            twin.program = None
        for name in twin.params:
            with pytest.raises(TypeError, match=name):
                twin.params[name] = 5


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_copied_layer_shares_its_tensors_with_its_neuron_as_the_layer_did(how):
    layer = SpikingLayer(LIF(nn.Parameter(torch.tensor(3.0)), torch.tensor([0.5, 1.0])))
    if how == "deepcopy":
        twin = copy.deepcopy(layer)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(layer))
    else:
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    assert twin.neuron.params["tau"] is twin.tau is not layer.tau
    assert twin.neuron.params["v_threshold"] is twin.v_threshold
    x = 2 * torch.rand(5, 3, 2)
    assert torch.equal(twin(x), layer(x))


def test_a_learned_parameter_changes_in_place():
    tau = nn.Parameter(torch.tensor(2.0))
    neuron = LIF(tau)
    x = torch.full((6, 1), 1.5)
    before, _ = spikeloom.run(neuron, x)
    before.sum().backward()
    torch.optim.SGD([tau], lr=10.0).step()
    assert neuron.params["tau"] is tau and tau.item() != 2.0
    expected, _ = spikeloom.run(LIF(tau.detach().clone()), x)
    after, _ = spikeloom.run(neuron, x)
    assert torch.equal(after, expected) and not torch.equal(after, before)


def test_a_layer_moves_to_another_precision():
    layer = SpikingLayer(LIF(torch.tensor(2.0), nn.Parameter(torch.ones(3)))).double()
    assert layer(2 * torch.rand(4, 2, 3).double()).dtype == torch.float64


def test_attributes_are_read_in_a_compiled_graph():
    neuron = LIF(tau=nn.Parameter(torch.tensor(3.0)), v_reset=-0.5)

    def read(x):
        assert neuron.kinds["tau"] == "scalar" and "beta" not in neuron.params
        rest = sum(neuron.rest.values()) + neuron.rest.get("none", 0.0)
        return x * neuron.params["tau"] + rest + len(neuron.state_names)

    x = torch.rand(3)
    compiled = torch.compile(read, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), read(x))


@named
def test_replace_without_changes_makes_the_same_neuron(neuron):
    twin = neuron.replace()
    assert twin is not neuron and type(twin) is type(neuron)
    assert repr(twin) == repr(neuron)
    assert (twin.program, dict(twin.rest)) == (neuron.program, dict(neuron.rest))
    for name, value in neuron.params.items():
        assert kind(twin.params[name]) == kind(value)


def test_replace_changes_what_it_names_alone():
    tau = nn.Parameter(torch.tensor(3.0))
    neuron = LIF(tau, v_threshold=0.5)
    soft = neuron.replace(v_reset=None)
    assert soft.params["tau"] is tau and soft.params["v_threshold"] == 0.5
    x = 2 * torch.rand(6, 5)
    expected = spikeloom.run(LIF(tau, 0.5, None), x)[0]
    assert torch.equal(spikeloom.run(soft, x)[0], expected)
    plain = MADE[-2].replace(beta=0.5)
    assert plain.params["beta"] == 0.5 and plain.params["gain"] is MADE[-2].params["gain"]
    assert plain.name == "named"


def test_replace_refuses_what_is_no_setting():
    with pytest.raises(TypeError, match="'beta'"):
        LIF().replace(beta=0.5)
    with pytest.raises(TypeError, match=r"replace: named has \['beta', 'gain'\], got \['tau'\]"):
        MADE[-2].replace(tau=0.5)
    with pytest.raises(ValueError, match="LIF: tau"):
        LIF().replace(tau=0.5)


def test_a_function_by_range_reduction_does_not_change_either():
    reduced = neurons.fit_reduced("square", steps=4, segments=8)
    for name in ("function", "neuron"):
        with pytest.raises(AttributeError, match=name):
            setattr(reduced, name, getattr(reduced, name))
    x = torch.rand(5)
    for twin in (copy.deepcopy(reduced), pickle.loads(pickle.dumps(reduced))):
        assert torch.equal(twin(x), reduced(x))


def test_a_gated_table_is_replaced_by_one_of_as_many_rows():
    gated = Neuron(
        lambda x, state, p: (x * spikeloom.kernel.vocabulary.lookup(p.table, 0.0 * x), state),
        params={"table": Gated(torch.ones(2, 1))},
    )
    x = torch.ones(3, 2)
    twice = {"table": Gated(torch.full((2, 1), 2.0))}
    assert torch.equal(spikeloom.run(gated, x, params=twice)[0], 2 * x)
    with pytest.raises(ValueError, match=r"'table' of <lambda> has 2 rows, got 1"):
        spikeloom.run(gated, x, params={"table": Gated(torch.ones(1, 1))})
