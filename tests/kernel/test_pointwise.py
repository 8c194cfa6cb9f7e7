"""Pointwise neurons give the bits of ``run`` at any length, and leave to it what they cannot."""

import copy
import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spikeloom import neurons, run
from spikeloom.kernel.pointwise import MOST, Pointwise


def ranges(*shape):
    inner = torch.rand(shape, generator=torch.Generator().manual_seed(3)) + 0.5
    inner = torch.round(inner * 64) / 64
    return inner, inner * 2, torch.tensor(8.0)


def oat(*shape):
    inner, middle, outer = ranges(*shape)
    return neurons.OAT(8, inner, outer, (middle,), rounding="nearest")


def held(neuron):
    return [neuron.params[name] for name in neuron.ranges]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_each_feature_is_encoded_in_ranges_of_its_own(dtype, rows):
    torch.manual_seed(0)
    neuron = oat(37)
    x = (3 * torch.randn(rows, 37)).to(dtype)
    expected, _ = run(neuron, x[None], reduce="sum", implementation="eager")
    found = Pointwise(neuron.decoder())(x, held(neuron))
    assert torch.equal(found, expected)


def test_heads_have_ranges_of_their_own():
    torch.manual_seed(0)
    neuron = oat(3, 1, 5)
    x = 3 * torch.randn(2, 3, 1, 5)
    expected, _ = run(neuron, x[None], reduce="sum", implementation="eager")
    assert torch.equal(Pointwise(neuron.decoder())(x, held(neuron)), expected)


def test_any_length_runs_in_the_kernel_of_the_first():
    torch.manual_seed(0)
    neuron = neurons.fit_hg("gelu", -6.0, 6.0, segments=16, strict=False).decoder()
    apply = Pointwise(neuron)
    for count in (1, 15, 16, 17, 100, 5000):
        x = 4 * torch.randn(count)
        assert torch.equal(apply(x), run(neuron, x[None], implementation="eager")[0][0])
    assert len(apply._kernels) == 1


def test_ranges_that_change_in_place_or_are_replaced_count_from_then_on():
    torch.manual_seed(0)
    neuron, x = oat(6), torch.randn(4, 6)
    apply, given = Pointwise(neuron.decoder()), [value.clone() for value in held(neuron)]
    before = apply(x, given)
    given[0].mul_(0.5)
    changed = apply(x, given)
    names = dict(zip(neuron.ranges, given, strict=True))
    assert torch.equal(changed, run(neuron.decoder(), x[None], params=names)[0][0])
    assert not torch.equal(changed, before)
    assert torch.equal(apply(x, held(neuron)), before)
    given[0].data = torch.full((6,), 0.25)
    names = dict(zip(neuron.ranges, given, strict=True))
    assert torch.equal(apply(x, given), run(neuron.decoder(), x[None], params=names)[0][0])


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def test_what_run_has_to_do_is_left_to_it():
    neuron = oat(4)
    apply, given = Pointwise(neuron.decoder()), held(neuron)
    x = torch.randn(2, 4)
    assert apply(x, given) is not None
    assert apply(x.clone().requires_grad_(), given) is None
    assert apply(x, [given[0].clone().requires_grad_(), *given[1:]]) is None
    assert apply(x.T.contiguous().T, given) is None
    assert apply(x.reshape(4, 2), given) is None
    assert apply(x[:0], given) is None
    assert apply(x.double(), given) is None
    assert apply(torch.randn(MOST // 4 + 1, 4), given) is None
    assert apply(x.to("meta"), given) is None
    with Watching():
        assert apply(x, given) is None
    with torch.no_grad():
        assert apply(x.clone().requires_grad_(), given) is not None


def test_rows_of_two_shapes_are_left_to_run():
    inner = torch.full((2, 1, 3), 0.5)
    neuron = neurons.OAT(4, inner, torch.full((2, 4, 3), 2.0))
    assert Pointwise(neuron.decoder())(torch.randn(2, 4, 3), held(neuron)) is None


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda apply: pickle.loads(pickle.dumps(apply))],
    ids=["copy", "pickle"],
)
def test_copies_hold_no_compiled_code_and_compute_the_same(copied):
    torch.manual_seed(0)
    neuron, x = oat(4), torch.randn(3, 4)
    apply = Pointwise(neuron.decoder())
    expected = apply(x, held(neuron))
    again = copied(apply)
    assert not again._kernels
    assert torch.equal(again(x, held(neuron)), expected)


@pytest.mark.parametrize("neuron", [neurons.LIF(), neurons.OAT(4)], ids=["states", "begin"])
def test_a_neuron_with_states_is_refused(neuron):
    with pytest.raises(ValueError, match="without states"):
        Pointwise(neuron)
