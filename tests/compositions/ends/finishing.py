"""finish: plain layers that compute the same to the last bit, zeros and bits counted by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from spikeloom import compress
from tests.compositions.compressions import Compressed
from tests.matrix.record import call, tensors_of

HOOKS = ("_forward_pre_hooks", "_state_dict_pre_hooks")


def judge(case: Compressed) -> None:
    expected = tensors_of(call(case.net, case.sample))
    finished = compress.finish(case.net)
    found = tensors_of(call(finished, case.sample))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    rows = {name: rest for name, *rest in finished.report.rows}
    assert set(rows) == set(case.subject.layers)
    original = case.subject.build()
    for name, (weights, zeros, bits) in rows.items():
        layer = finished.get_submodule(name)
        weight = layer.weight.detach().numpy()
        assert (weights, zeros) == (weight.size, np.count_nonzero(weight == 0))
        assert bits == (width(layer) if case.is_quantised else None)
        for hooks in HOOKS:
            own: nn.Module = original.get_submodule(name)
            assert len(getattr(layer, hooks)) == len(getattr(own, hooks))


def width(layer: nn.Module) -> int:
    """The bits of signed numbers that hold a layer's codes."""
    codes = layer.weight_codes.numpy().astype(int)
    return 1 + max(int(code if code >= 0 else -code - 1).bit_length() for code in codes.flat)
