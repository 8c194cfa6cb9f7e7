"""What a neuron says of itself, and who listens."""

import nir
import numpy as np
import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, compress, neurons, run
from spikeloom.export import NotExpressible, Verdict, run_nir, to_nir
from spikeloom.kernel.neuron import PerStep
from spikeloom.kernel.vocabulary import fire
from spikeloom.neurons.described import Described
from spikeloom.neurons.forms import Constants, Membrane, NoForm, steps_of
from spikeloom.neurons.surrogate import ATan
from spikeloom.neurons.trace import Response


class Halving(Described):
    """A neuron of another package, complete in its own class: half of its potential is left."""

    unit = "threshold"

    def __init__(self, threshold=1.0):
        super().__init__(self._step, params={"threshold": threshold}, name="Halving")

    def _step(self, x, state, p):
        (v,) = state
        h = 0.5 * v + x
        s = fire(h - p.threshold, ATan(), strict=True)
        return s, ((1.0 - s) * h,)

    def form(self, values):
        two = np.full((), 2.0)
        return Membrane(
            k=two, divided=False, threshold=values["threshold"], at_threshold=False, reset="hard"
        )

    def response(self, values):
        return Response(0.5)

    def settings(self):
        return {"threshold": self.params["threshold"]}


def grid(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).mul(4).round().div(4)


def test_a_neuron_of_another_package_is_written_by_the_form_that_it_states():
    neuron, x = Halving(0.75), grid(40, 3, 5)
    graph, report = to_nir(nn.Sequential(SpikingLayer(neuron)), x)
    expected, _ = run(neuron, x)
    assert isinstance(graph.nodes["0"], nir.LIF) and report.column("verdict") == [Verdict.EXACT]
    assert 0 < expected.mean() < 1
    assert torch.equal(run_nir(graph, x), expected)


def test_calibration_reads_the_filter_of_a_neuron_of_another_package():
    net = nn.Sequential(nn.Linear(5, 4), SpikingLayer(Halving()), nn.Linear(4, 2)).eval()
    calibration = compress.calibrate(net, grid(12, 3, 5))
    assert "0.5" in str(calibration)


def test_a_subclass_that_computes_something_else_is_not_written_as_its_base():
    class Other(Halving):
        def _step(self, x, state, p):
            s, (v,) = super()._step(x, state, p)
            return s, (0.9 * v,)

    with pytest.raises(NotExpressible, match="a Halving that computes something else"):
        to_nir(nn.Sequential(SpikingLayer(Other())), grid(20, 3, 5))


def test_a_subclass_that_changes_only_its_surrogate_is_written_as_its_base():
    class Sharp(Halving):
        def _step(self, x, state, p):
            (v,) = state
            h = 0.5 * v + x
            s = fire(h - p.threshold, ATan(9.0), strict=True)
            return s, ((1.0 - s) * h,)

    x = grid(20, 3, 5)
    graph, _ = to_nir(nn.Sequential(SpikingLayer(Sharp())), x)
    assert torch.equal(run_nir(graph, x), run(Sharp(), x)[0])


def test_constants_have_the_precision_of_a_kernel():
    values = Constants({"tau": 0.1, "each": torch.tensor([0.5, 0.25])})
    assert values["tau"] == np.float64(np.float32(0.1)) and values["tau"].dtype == np.float64
    assert values["each"].tolist() == [0.5, 0.25]
    assert "alpha" not in values and values.get("alpha") is None


def test_what_changes_with_time_is_constant_in_a_single_step_only():
    params = {"alpha": PerStep(torch.tensor([0.5, 0.75]))}
    assert Constants(params, steps=1)["alpha"] == 0.5
    with pytest.raises(NoForm, match="its alpha changes with time"):
        Constants(params, steps=2)["alpha"]


@pytest.mark.parametrize("decay, match", [(1.5, "outside"), ((1.0, 0.5), "some do not")])
def test_a_decay_without_one_time_constant_is_refused(decay, match):
    with pytest.raises(NoForm, match=match):
        steps_of("decay", np.asarray(decay))


def described():
    for name in neurons.__all__:
        cls = getattr(neurons, name)
        if isinstance(cls, type) and issubclass(cls, Described):
            yield from (pytest.param(v, id=f"{name}-{v.label}") for v in cls.variants())


@pytest.mark.parametrize("variant", [*described()])
def test_every_example_of_a_neuron_has_a_kernel_and_can_be_made_anew(variant):
    neuron = variant.neuron
    assert neuron.program is not None, neuron.reason
    x = grid(variant.steps, 2, 3)
    expected, _ = run(neuron, x)
    found, _ = run(type(neuron)(**neuron.settings()), x, implementation="eager")
    assert torch.equal(found, expected)
