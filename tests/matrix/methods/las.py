"""LAS: near the float network at many steps, and nothing of it stays in float."""

from __future__ import annotations

from spikeloom import convert
from tests.matrix.errors import relative
from tests.matrix.model import Model
from tests.matrix.record import call

STEPS = 12
ERROR = 1e-2


def judge(model: Model) -> None:
    net, sample = model.made()
    converted = convert.LAS(STEPS, progress=False).apply(net, [sample])
    assert relative(call(converted, sample), call(net, sample)) < ERROR
    assert not any("in float" in note for note in converted.report.notes)
