"""What a refusal for a target says."""

import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, neurons
from spikeloom.export import PROFILES, NotExpressible, to_nir

NETS = {
    "Trace": lambda: neurons.Trace(0.5),
    "SignGD": lambda: neurons.SignGD("relu", neurons.Constant(0.25)),
    "LIF": neurons.LIF,
    "IF": neurons.IF,
    "OAT": lambda: neurons.OAT(2),
}


@pytest.mark.parametrize(
    ("name", "target"), [(name, t) for name in NETS for t in PROFILES if t != "nir"]
)
def test_a_refusal_gives_each_advice_once_and_a_target_that_takes_the_model(name, target):
    net = nn.Sequential(nn.Linear(3, 2), SpikingLayer(NETS[name]()))
    x = torch.rand(4, 2, 3)
    try:
        to_nir(net, x, on_inexact="subgraph", target=target)
    except NotExpressible as refusal:
        for offence in refusal.offences:
            assert offence.remedy.count("another target") == 1
            assert offence.remedy.endswith('another target, such as target="nir"')
        to_nir(net, x, on_inexact="subgraph", target="nir")


def test_a_node_that_a_reader_does_not_take_is_named_with_another_target_only():
    net = nn.Sequential(nn.Linear(3, 2), SpikingLayer(neurons.Trace(0.5)))
    with pytest.raises(NotExpressible) as caught:
        to_nir(net, torch.rand(4, 2, 3), target="norse")
    (offence,) = caught.value.offences
    assert offence.reason == "as LI for norse: it does not read LI"
    assert offence.remedy == 'choose another target, such as target="nir"'
