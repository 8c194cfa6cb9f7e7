"""to_nir: the file, run by an interpreter, answers like the network, and tells of its weights."""

from __future__ import annotations

import torch

from spikeloom import compress, export
from spikeloom.verify import fold_norms
from tests.compositions.compressions import Compressed
from tests.matrix.record import call, tensors_of


def judge(case: Compressed) -> None:
    net = case.net if case.subject.convert else fold_norms(compress.finish(case.net))
    sample = case.subject.sequence(case.sample)
    graph, report = export.to_nir(net, sample, **case.subject.nir)
    assert report.mismatch == 0
    for x in (case.sample, 0.7 * case.sample.flip(1)):
        expected = tensors_of(call(net, x))[0]
        found = export.run_nir(graph, case.subject.sequence(x))
        found = found if found.dim() == expected.dim() else found[-1]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if case.subject.convert is None:
        bits = [node.metadata.get("weight_bits") for node in graph.nodes.values()]
        zeros = [node.metadata.get("weight_sparsity") for node in graph.nodes.values()]
        assert any(bits) == case.is_quantised
        assert any(zeros) == case.is_pruned
