"""fold_norms: the folded network computes the same in float64, and keeps zeros and codes."""

from __future__ import annotations

import torch

from spikeloom.verify import fold_norms
from tests.compositions.compressions import Compressed
from tests.compositions.subject import same
from tests.matrix.record import call, tensors_of


def judge(case: Compressed) -> None:
    net = same(case.net).double()
    folded = fold_norms(net)
    expected = tensors_of(call(net, case.sample))
    found = tensors_of(call(folded, case.sample))
    for one, other in zip(found, expected, strict=True):
        assert one.any()
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    report = fold_norms(case.net).report
    results = zip(report.column("module"), report.column("result"), strict=True)
    assert [name for name, result in results if result == "folded"] == list(case.subject.folds)
    if case.subject.convert is None:
        check_kept(case)


def check_kept(case: Compressed) -> None:
    """Zeros are zeros still, and weights codes times steps, unless the report says otherwise."""
    folded = fold_norms(case.net)
    told = str(folded.report)
    for name in case.subject.layers:
        layer, own = folded.get_submodule(name), case.net.get_submodule(name)
        if case.is_pruned:
            assert not layer.weight[own.weight_mask].any()
        if not case.is_quantised:
            continue
        if f"weights of {name}, which leave their grid" in told:
            assert not hasattr(layer, "weight_codes")
        else:
            steps = layer.weight_scale.reshape(-1, *(1,) * (layer.weight.dim() - 1))
            assert torch.equal(layer.weight, steps * layer.weight_codes)
            assert torch.equal(layer.weight_codes, own.weight_codes)
