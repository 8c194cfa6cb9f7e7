"""torch.compile: the compiled network answers the same, before and after it is finished."""

from __future__ import annotations

import torch

from spikeloom import compress
from tests.compositions.compressions import Compressed
from tests.compositions.subject import same
from tests.matrix.record import call, tensors_of


def judge(case: Compressed) -> None:
    nets = [case.net]
    if case.subject.convert is None:
        nets.append(compress.finish(case.net))
    for net in nets:
        expected = tensors_of(call(same(net), case.sample))
        torch._dynamo.reset()
        compiled = torch.compile(net, backend="eager")
        found = tensors_of(call(compiled, case.sample))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
