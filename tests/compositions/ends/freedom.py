"""check_mfi: after folding, it blames what a reader of the network blames, and nothing else."""

from __future__ import annotations

from spikeloom.verify import check_mfi, fold_norms
from tests.compositions.compressions import Compressed


def judge(case: Compressed) -> None:
    net = fold_norms(case.net) if case.subject.folds else case.net
    report = check_mfi(net, case.sample)
    assert set(report.violations) == set(case.subject.multiplies), str(report.violations)
    assert report.ok == (not case.subject.multiplies)
