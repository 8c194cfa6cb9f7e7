"""check_mfi: its verdict and the modules it blames are those that a reader of the model names."""

from __future__ import annotations

from spikeloom.verify import check_mfi
from tests.matrix.model import Model


def judge(model: Model) -> None:
    net, sample = model.made()
    report = check_mfi(net, sample)
    assert set(report.violations) == set(model.multiplies), f"blames {report.violations}: {report}"
    assert report.ok == (not model.multiplies), str(report)
