"""to_nir: the file, read by an interpreter, gives the network's spikes, on another input too."""

from __future__ import annotations

import torch

from spikeloom import export
from tests.matrix.model import Model
from tests.matrix.record import recorded, tensors_of


def judge(model: Model) -> None:
    net, sample = model.made()
    graph, report = export.to_nir(net, sample)
    assert report.mismatch == 0
    assert any("looks at values" in note for note in report.notes) == model.branches
    others = (sample.flip(0), 1.5 * sample, 0 * sample)
    for x in (sample, *(() if model.branches else others)):
        expected = tensors_of(recorded(model.made()[0], x).output)[0]
        found = export.run_nir(graph, x)
        if model.readout is not None:
            found = model.readout(found)
        if set(expected.unique().tolist()) <= {0.0, 1.0}:
            assert torch.equal(found, expected)
        else:
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
