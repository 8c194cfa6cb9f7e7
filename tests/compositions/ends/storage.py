"""save, load: what was written and read again answers the same, and knows zeros and codes."""

from __future__ import annotations

import io

import torch

from spikeloom import compress
from tests.compositions.compressions import Compressed
from tests.compositions.subject import same
from tests.matrix.record import call, tensors_of


def judge(case: Compressed) -> None:
    file = io.BytesIO()
    if case.subject.state:
        torch.save(case.net.state_dict(), file)
        file.seek(0)
        loaded = case.subject.build()
        compress.load_compressed(loaded, torch.load(file))
    else:
        torch.save(case.net, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
    expected = tensors_of(call(same(case.net), case.sample))
    found = tensors_of(call(loaded, case.sample))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    before, after = case.net.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
