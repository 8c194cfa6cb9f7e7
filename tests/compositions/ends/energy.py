"""count_energy: against weights that exist and spikes that enter, both counted by hooks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikeloom.rows import entering
from spikeloom.verify import count_energy
from tests.compositions.compressions import Compressed
from tests.compositions.ends.finishing import width
from tests.compositions.subject import same
from tests.matrix.record import call


def judge(case: Compressed) -> None:
    net = case.net
    report = count_energy(net, case.sample)
    if case.subject.used is not None:
        assert (report.accumulates, report.macs) == case.subject.used(net)
        return
    read = inputs(same(net), case)
    rows = {row[0]: dict(zip(report.columns, row, strict=True)) for row in report.rows}
    real = case.subject.layers if case.subject.real is None else case.subject.real
    for name in case.subject.layers:
        layer, row = net.get_submodule(name), rows[name]
        for x in read[name]:
            assert x.any()
        ones = sum(uses(layer, torch.ones_like(x)) for x in read[name])
        spikes = sum(uses(layer, x.abs()) for x in read[name])
        expected = (0, ones) if name in real else (spikes, 0)
        batch = case.subject.batch
        assert (row["AC"] * batch, row["MAC"] * batch) == pytest.approx(expected)
        assert row["synapses"] * batch == pytest.approx(ones)
        has_codes = getattr(layer, "weight_codes", None) is not None
        assert has_codes or not case.is_quantised or case.subject.convert is not None
        assert row["bits"] == (width(layer) if has_codes else None)


def inputs(net: nn.Module, case: Compressed) -> dict[str, list[Tensor]]:
    """What meets the weights of each layer, in each call."""
    read: dict[str, list[Tensor]] = {name: [] for name in case.subject.layers}
    for name, calls in read.items():

        def note(layer: nn.Module, args: tuple[Tensor], calls: list[Tensor] = calls) -> None:
            calls.append(entering(layer, args[0]).detach())

        net.get_submodule(name).register_forward_pre_hook(note)
    call(net, case.sample)
    return read


def uses(layer: nn.Module, x: Tensor) -> float:
    """How often weights that exist are used by an input of so many spikes."""
    present = (layer.weight != 0).double()
    if isinstance(layer, nn.Linear):
        return float(F.linear(x.double(), present).sum())
    twin = type(layer)(**{name: getattr(layer, name) for name in GEOMETRY}, bias=False).double()
    twin.weight = nn.Parameter(present)
    images = x.double() if x.dim() == present.dim() else x.double().flatten(0, 1)
    with torch.no_grad():
        return float(nn.Module.__call__(twin, images).sum())


GEOMETRY = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups")
