"""fold_norms: the folded network computes what the network computes, in float64."""

from __future__ import annotations

import torch

from spikeloom.verify import fold_norms
from tests.matrix.model import Model
from tests.matrix.record import recorded, tensors_of


def judge(model: Model) -> None:
    net, sample = model.made()
    net = model.exact(net)
    folded = fold_norms(net)
    report = folded.report
    results = zip(report.column("module"), report.column("result"), strict=True)
    folds = {name for name, result in results if result == "folded"}
    assert folds == set(model.folds), str(report)
    expected = tensors_of(recorded(net, sample).output)
    found = tensors_of(recorded(folded, sample).output)
    assert expected
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
