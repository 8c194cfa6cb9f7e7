"""Potentials that hosts record: in the precision of the states, also of 16-bit input."""

import pytest
import torch

from spikeloom.plugins import norse, snntorch, spikingjelly

X = 2 * torch.rand(6, 2, 3, generator=torch.Generator().manual_seed(0))


def by_spikingjelly(x, how):
    node = spikingjelly.LIFNode(tau=3.0, step_mode="m", store_v_seq=True, implementation=how)
    return node(x), node.v, node.v_seq


def by_snntorch(x, how):
    leaky = snntorch.Leaky(0.9, implementation=how)
    y, mem, recorded = leaky.sequence(x, record=True)
    return y, mem, recorded


def by_norse(x, how):
    y, recorded = norse.LIFBox(record_states=True, implementation=how)(x)
    _, last = norse.LIFBox(implementation=how)(x)
    return y, last.v, recorded.v


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("how", ["auto", "eager"])
@pytest.mark.parametrize("recorded_by", [by_spikingjelly, by_snntorch, by_norse])
def test_a_recorded_potential_ends_with_the_last_state(recorded_by, how, dtype):
    x = X.to(dtype)
    y, last, recorded = recorded_by(x, how)
    assert (y.dtype, last.dtype, recorded.dtype) == (dtype, torch.float32, torch.float32)
    assert torch.equal(recorded[-1], last)
    assert torch.equal(recorded, recorded_by(x.float(), "eager")[2])
