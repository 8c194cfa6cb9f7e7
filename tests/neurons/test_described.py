"""What repr shows of a neuron: what was said, in a form that can be said again."""

import pytest
import torch
from torch import nn

from spikeloom import neurons
from spikeloom.neurons import (
    HG,
    IF,
    LIF,
    OAT,
    ElasticBiSpike,
    FewSpike,
    Leaky,
    LIFBox,
    ParametricLIF,
    Trace,
)
from spikeloom.neurons.surrogate import ATan, Sigmoid

NAMES = {**vars(neurons), **vars(neurons.surrogate)}

SHOWN = [
    (LIF(), "LIF()"),
    (LIF(2), "LIF()"),
    (LIF(surrogate=Sigmoid(4.0)), "LIF()"),
    (LIF(tau=None), "LIF(tau=None)"),
    (LIF(3.0, v_reset=None, decay_input=False), "LIF(tau=3.0, v_reset=None, decay_input=False)"),
    (LIF(surrogate=ATan(3.0)), "LIF(surrogate=ATan(alpha=3.0))"),
    (ParametricLIF(), "ParametricLIF()"),
    (ParametricLIF(0.3, v_reset=None), "ParametricLIF(rate=0.3, v_reset=None)"),
    (IF(), "IF()"),
    (IF(v_reset=None), "IF(v_reset=None)"),
    (Leaky(0.9), "Leaky(beta=0.9)"),
    (Leaky(0.9, reset_mechanism="zero"), "Leaky(beta=0.9, reset_mechanism='zero')"),
    (LIFBox(dt=0.01), "LIFBox(dt=0.01)"),
    (OAT(), "OAT()"),
    (OAT(4, outlier=8.0, between=[2.0]), "OAT(steps=4, outlier=8.0, between=(2.0,))"),
    (ElasticBiSpike(1.0), "ElasticBiSpike(alpha=1.0)"),
    (Trace(0.5), "Trace(decay=0.5)"),
    (Trace(0.5, 0.0), "Trace(decay=0.5, synaptic_decay=0.0)"),
]


@pytest.mark.parametrize("neuron, shown", SHOWN, ids=[shown for _, shown in SHOWN])
def test_what_differs_from_the_defaults_is_shown_and_makes_the_neuron_again(neuron, shown):
    assert repr(neuron) == shown
    twin = eval(shown, NAMES)
    assert twin.settings() == neuron.settings() and twin.program == neuron.program


def test_a_tensor_is_always_shown_by_its_shape_or_value():
    assert repr(LIF(torch.tensor(2.0))) == "LIF(tau=2)"
    assert repr(LIF(nn.Parameter(torch.tensor(2.0)))) == "LIF(tau=2 (learned))"
    assert repr(Leaky(torch.rand(3))) == "Leaky(beta=tensor([3]))"
    table = FewSpike([1.0], [1.0], [1.0])
    assert repr(table) == "FewSpike(theta=PerStep([1]), h=PerStep([1]), d=PerStep([1]))"
    assert repr(HG([], [table])).startswith("HG(boundaries=(), tables=(FewSpike(theta=")


def test_a_subclass_with_arguments_of_its_own_shows_them():
    class Named(LIF):
        def __init__(self, label, **settings):
            self.label = label
            super().__init__(**settings)

        def settings(self):
            return {"label": self.label, "tau": self.params["tau"]}

    assert repr(Named("a", tau=2.0)) == "Named(label='a', tau=2.0)"
