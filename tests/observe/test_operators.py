"""The table of operations against torch itself: what it says of an operation is tried out."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from spikeloom.observe import EVERY, Effect, Operation, meaning_of, register
from spikeloom.observe.dialects import is_in_place, name_of
from spikeloom.observe.operators import names_of

MAP = (2, 4, 4, 4)
# A call of an operation: what stands around the tensors that it takes.
CALLS = {
    "view": lambda x: x.view(2, -1),
    "reshape": lambda x: x.reshape(-1),
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.unflatten(1, (2, 2)),
    "ravel": torch.ravel,
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(0),
    "atleast_3d": torch.atleast_3d,
    "permute": lambda x: x.permute(3, 0, 1, 2),
    "transpose": lambda x: x.transpose(0, 1),
    "t": lambda x: x[0, 0].t(),
    "movedim": lambda x: x.movedim(0, -1),
    "mT": lambda x: x.mT,
    "expand": lambda x: x[None].expand(3, *x.shape),
    "broadcast_to": lambda x: x.broadcast_to(3, *x.shape),
    "repeat": lambda x: x.repeat(2, 1, 1, 1),
    "tile": lambda x: x.tile(2, 1),
    "roll": lambda x: x.roll(1, 0),
    "flip": lambda x: x.flip(1),
    "rot90": lambda x: x.rot90(),
    "select": lambda x: x.select(1, 2),
    "narrow": lambda x: x.narrow(1, 0, 2),
    "as_strided": lambda x: x.as_strided((2, 3), (1, 2)),
    "unfold": lambda x: x.unfold(2, 2, 1),
    "diagonal": lambda x: x.diagonal(0, 2, 3),
    "split": lambda x: x.split(2, 1),
    "chunk": lambda x: x.chunk(2),
    "tensor_split": lambda x: x.tensor_split(2),
    "unbind": lambda x: x.unbind(1),
    "hsplit": lambda x: x.hsplit(2),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "reflection_pad2d": lambda x: F.pad(x, (1, 1, 1, 1), "reflect"),
    "replication_pad2d": lambda x: F.pad(x, (1, 1, 1, 1), "replicate"),
    "upsample_nearest2d": lambda x: F.interpolate(x, scale_factor=2),
    "getitem": lambda x: x[:, 1:3],
    "index_select": lambda x: x.index_select(1, torch.tensor([2, 0])),
    "gather": lambda x: x.gather(0, torch.zeros(1, 4, 4, 4, dtype=torch.long)),
    "take_along_dim": lambda x: x.take_along_dim(torch.zeros(1, 4, 4, 4, dtype=torch.long), 0),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 0),
    "pad": lambda x: F.pad(x, (1, 1), value=0.5),
    "im2col": lambda x: F.unfold(x, 3, padding=1),
    "tril": torch.tril,
    "triu": torch.triu,
    "diag_embed": torch.diag_embed,
    "cat": lambda x: torch.cat((x, x)),
    "stack": lambda x: torch.stack((x, x)),
    "sum": lambda x: x.sum(1),
    "cumsum": lambda x: x.cumsum(1),
    "neg": torch.neg,
    "diff": torch.diff,
    "col2im": lambda x: F.fold(x.flatten(2).transpose(1, 2)[:, :4], (3, 3), 2),
    "mean": lambda x: x.mean(1),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 2),
    "upsample_bilinear2d": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "upsample_bicubic2d": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "clone": torch.clone,
    "to": lambda x: x.to(torch.float64),
    "positive": torch.positive,
}
AFFINE = (
    *(Effect.KEEPS, Effect.MOVES, Effect.PADS, Effect.JOINS, Effect.PLACES),
    *(Effect.ADDS, Effect.AVERAGES),
)
NOT_AFFINE = (Effect.ACTIVATES, Effect.SELECTS, Effect.REDUCES, Effect.ROUNDS, Effect.NORMALISES)


def values(result):
    results = result if isinstance(result, (tuple, list)) else (result,)
    return torch.cat([tensor.flatten().double() for tensor in results])


@pytest.mark.parametrize("name", CALLS)
def test_what_is_called_affine_adds_up(name):
    torch.manual_seed(0)
    a, b = torch.randn(MAP, dtype=torch.float64), torch.randn(MAP, dtype=torch.float64)
    call = CALLS[name]
    assert meaning_of(name).effect in AFFINE
    at_zero = values(call(torch.zeros(MAP, dtype=torch.float64)))
    together = values(call(a + b)) + at_zero
    torch.testing.assert_close(together, values(call(a)) + values(call(b)))


@pytest.mark.parametrize("name", CALLS)
def test_what_is_called_a_movement_makes_no_new_value(name):
    x = torch.randperm(128).double().reshape(MAP) + 1000
    found = set(values(CALLS[name](x)).tolist()) - set(x.flatten().tolist())
    effect = meaning_of(name).effect
    if effect in (Effect.KEEPS, Effect.MOVES, Effect.JOINS):
        assert not found
    elif effect is Effect.PADS:
        assert len(found) <= 1
    else:
        assert found


POINTS = torch.tensor([[0.3, -0.7, 1.6], [0.2, 0.6, -2.7], [0.9, 0.1, 2.4]], dtype=torch.float64)


def unary(names):
    for name in names:
        if meaning_of(name).addends != ():
            continue  # a choice by a condition, affine in what it chooses from
        function = getattr(torch, name, None) or getattr(F, name, None)
        try:
            yield name, function, values(function(POINTS))
        except (TypeError, RuntimeError, NotImplementedError, AttributeError):
            continue  # takes more than one tensor


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("effect", NOT_AFFINE, ids=lambda effect: effect.name)
def test_what_is_called_nonlinear_does_not_add_up(effect):
    tried = 0
    for name, function, at_x in unary(names_of(effect)):
        gaps = [
            at_x + values(function(y)) - values(function(POINTS + y)) - values(function(0 * y))
            for y in (POINTS * 9 - 3.3, 9 * POINTS.flip(0).t(), 1 - 2 * POINTS)
        ]
        assert any(bool((gap.abs() > 1e-6).any() or gap.isnan().any()) for gap in gaps), name
        tried += 1
    assert tried or effect is Effect.NORMALISES


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_called_partial_has_a_pole_or_outgrows_every_power():
    x = torch.tensor([-1e3, -2.0, 0.0, torch.pi / 2, 1e3], dtype=torch.float64)
    partial = [name for name in names_of(Effect.ACTIVATES) if meaning_of(name).is_partial]
    for name, _, _ in unary(names_of(Effect.ACTIVATES)):
        y = getattr(torch, name, None) or getattr(F, name)
        largest = values(y(x)).nan_to_num(torch.inf).abs().max()
        if name not in ("square", "softmax"):
            assert (largest > 1e7) == (name in partial), name


def test_bounds_are_where_the_values_of_a_choice_end():
    x = torch.linspace(-10, 10, 81)
    for name in ("relu", "relu6", "hardtanh"):
        y = getattr(F, name)(x)
        limits = torch.tensor(meaning_of(name).bounds)
        assert bool((torch.isin(y, x) & (y == x) | torch.isin(y, limits)).all())
        assert bool(torch.isin(limits, y).all())


def spelled(*functions):
    return {meaning_of(function) for function in functions}


def test_all_dialects_of_an_operation_are_one():
    x = torch.ops.aten
    assert spelled(torch.relu, F.relu, F.relu_, x.relu_, x.relu.default, "aten::relu_") == {
        meaning_of("relu")
    }
    assert spelled(operator.add, torch.Tensor.__radd__, torch.Tensor.__iadd__, x.add.Tensor) == {
        meaning_of("add")
    }
    assert spelled(torch.Tensor.shape.__get__, torch.Tensor.size) == {meaning_of("size")}
    assert spelled(x.native_layer_norm.default, F.layer_norm) == {meaning_of("layer_norm")}
    assert spelled(torch.Tensor.__iter__, x.unbind.int) == {meaning_of("unbind")}


def test_operations_that_share_a_name_are_told_apart():
    assert meaning_of(F.unfold).effect is Effect.PADS
    assert meaning_of(torch.Tensor.unfold).effect is Effect.MOVES
    assert meaning_of(torch.Tensor.float).effect is Effect.KEEPS
    assert meaning_of(torch.Tensor.__float__).effect is Effect.READS
    assert meaning_of(torch.rand).effect is Effect.MAKES
    assert meaning_of(torch.Tensor.__rand__).effect is Effect.TESTS
    assert meaning_of(torch.Tensor.requires_grad_).effect is Effect.KEEPS
    assert meaning_of(torch.Tensor.requires_grad.__get__).effect is Effect.DESCRIBES


def test_functions_that_are_not_torchs_are_not_known_by_their_name():
    def add(a, b):
        return a

    assert meaning_of(add) is None
    assert meaning_of("mylib::relu") is None


def test_every_function_that_a_tensor_meets_is_named_as_torch_names_it():
    class Names(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            found.append(name_of(func))
            return func(*args, **(kwargs or {}))

    found = []
    x = torch.ones(2, 3, 4, 4)
    with Names():
        (x + 1, 1 - x, x.mT.device, F.max_pool2d(x, 2), x.add_(1), x.data, x[0])
    assert found == [
        *("add", "__rsub__", "mT", "device", "max_pool2d", "add_", "data", "__getitem__"),
    ]


@pytest.mark.parametrize(
    "name, expected",
    [
        *(("add_", True), ("__iadd__", True), ("__setitem__", True), ("__iter__", False)),
        *(("add", False), ("_softmax", False), ("__int__", False), ("__invert__", False)),
    ],
)
def test_in_place_names_are_told(name, expected):
    assert is_in_place(name) is expected


def varies(*tensors):
    return lambda leaf: any(leaf is tensor for tensor in tensors)


def test_an_operation_is_affine_in_what_varies_while_the_rest_is_constant():
    a, b, c = torch.ones(3, 2, 2)
    product, fused = meaning_of("mul"), meaning_of("addmm")
    assert product.is_affine((a, b), {}, varies(a))
    assert not product.is_affine((a, b), {}, varies(a, b))
    assert not product.is_affine((a, a), {}, varies(a))
    assert fused.is_affine((a, b, c), {}, varies(a, c))
    assert not fused.is_affine((a, b, c), {}, varies(b, c))
    assert meaning_of("div").is_affine((a, b), {}, varies(a))
    assert not meaning_of("div").is_affine((a, b), {}, varies(b))
    assert not meaning_of("div").is_affine((a, b), {"rounding_mode": "floor"}, varies(a))
    assert meaning_of("where").is_affine((c, a, b), {}, varies(a, b))
    assert not meaning_of("where").is_affine((c, a, b), {}, varies(c))
    assert meaning_of("einsum").is_affine(("ij,jk", [a, b]), {}, varies(b))
    assert not meaning_of("einsum").is_affine(("ij,jk", [a, b]), {}, varies(a, b))
    assert meaning_of("view_as").is_affine((a, b), {}, varies(a, b))
    assert not meaning_of("mul").is_affine((a,), {"other": b}, varies(b))


def test_a_user_adds_an_operation_of_their_own():
    step = Operation("observe_test::step", Effect.ROUNDS)
    assert meaning_of("observe_test::step") is None
    register(step, "observe_test::heaviside")
    assert meaning_of("observe_test::heaviside") is meaning_of("observe_test::step") is step
    register(step)  # again, as when a module is loaded anew


def test_an_operation_that_is_known_as_another_is_refused():
    with pytest.raises(ValueError, match="'relu' is known already"):
        register(Operation("relu", Effect.ADDS, EVERY))
    with pytest.raises(TypeError, match="operation: must be an Operation, got str"):
        register("relu")


@pytest.mark.parametrize("name", ["relu_", "special_expit", "__radd__", "max_pool2d_with_indices"])
def test_another_spelling_of_a_known_operation_is_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' is known already, as Operation"):
        register(Operation(name, Effect.ROUNDS))


@pytest.mark.parametrize("name", ["aten::observe_step", "torch.observe_step", "aten.observe_step"])
def test_a_name_by_which_nothing_would_be_found_is_refused(name):
    with pytest.raises(ValueError, match="is looked up as 'observe_step'; write that"):
        register(Operation(name, Effect.ROUNDS))
    assert meaning_of("observe_step") is None
