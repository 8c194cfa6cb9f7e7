"""DDP: trained by a process of one, the weights are those of the same training without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from tests.compositions.compressions import Compressed
from tests.compositions.subject import same, tuned
from tests.matrix.record import call


def judge(case: Compressed) -> None:
    alone, together = same(case.net), same(case.net)
    before = {name: p.detach().clone() for name, p in alone.named_parameters()}
    tuned(alone.train(), case.sample)
    with group_of_one():
        model = DistributedDataParallel(together.train())
        tuned(together, case.sample, model=model)
    found = dict(together.named_parameters())
    moved = False
    for name, expected in alone.named_parameters():
        torch.testing.assert_close(found[name], expected)
        moved |= not torch.equal(expected, before[name])
    assert moved
    call(together.eval(), case.sample)
    for name in case.subject.layers if case.is_pruned and case.subject.convert is None else ():
        layer = together.get_submodule(name)
        assert not layer.weight[layer.weight_mask].any()


@contextmanager
def group_of_one() -> Iterator[None]:
    """A process group that this process is all of."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()
