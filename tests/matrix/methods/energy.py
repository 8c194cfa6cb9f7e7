"""count_energy: against spikes and synapses that hooks see in a plain run."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from spikeloom.verify import count_energy
from tests.matrix.model import Model
from tests.matrix.record import Record, recorded


def judge(model: Model) -> None:
    net, sample = model.made()
    report = count_energy(net, sample, **model.shape)
    seen = recorded(model.made()[0], sample)
    fired = [spikes for calls in seen.spikes.values() for spikes in calls]
    accumulates, macs = synapses(model, net, seen)
    if fired:
        spikes, chances = sum(int(s.count_nonzero()) for s in fired), sum(s.numel() for s in fired)
        assert spikes, "the network is silent"
        assert report.spikes == pytest.approx(spikes / model.batch)
        assert report.rate == pytest.approx(spikes / chances)
    else:
        assert math.isnan(report.spikes)
    found = (report.accumulates * model.batch, report.macs * model.batch)
    assert found == pytest.approx((accumulates, macs)), str(report)


def synapses(model: Model, net: nn.Module, seen: Record) -> tuple[float, float]:
    """Synaptic additions and multiply-accumulates of the whole sample."""
    if model.synapses is not None:
        return model.synapses({name: torch.stack(calls) for name, calls in seen.spikes.items()})
    accumulates = macs = 0.0
    for name, calls in seen.inputs.items():
        layer = net.get_submodule(name)
        if model.real is None or name in model.real:
            macs += sum(uses(layer, torch.ones_like(x)) for x in calls)
        else:
            accumulates += sum(uses(layer, x.abs()) for x in calls)
    return accumulates, macs


def uses(layer: nn.Module, x: Tensor) -> float:
    """How often the weights of a layer are used if its inputs are so many spikes."""
    if isinstance(layer, nn.Linear):
        return float(x.double().sum()) * layer.out_features
    counting = copy.deepcopy(layer).double()
    counting.bias = None
    nn.init.ones_(counting.weight)
    with torch.no_grad():
        return float(counting(x.double()).sum())
