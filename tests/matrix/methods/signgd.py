"""signGD: near the float network at many steps, and nearer than at few."""

from __future__ import annotations

from spikeloom import convert
from tests.matrix.errors import relative
from tests.matrix.model import Model
from tests.matrix.record import call

FEW, MANY = 8, 64
ERROR = 0.02


def judge(model: Model) -> None:
    net, sample = model.made()
    converted = convert.SignGD(MANY, search=False, progress=False).apply(net, [sample])
    expected = call(net, sample)
    arguments = sample if isinstance(sample, tuple) else (sample,)
    if isinstance(sample, dict):
        few, many = converted(**sample, at=[FEW, MANY])
    else:
        few, many = converted(*arguments, at=[FEW, MANY])
    assert relative(many, expected) < min(ERROR, relative(few, expected))
