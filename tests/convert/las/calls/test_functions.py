"""What a forward calls by itself becomes spikes: every product, norm and function of torch."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spikeloom.convert import LAS, set_form
from tests.convert.las.fitting import relative

WEIGHT = torch.linspace(-1, 1, 64).reshape(8, 8) ** 3
CASES = {
    # Products.
    "matmul with a weight": lambda h: h @ WEIGHT,
    "matmul of activations": lambda h: h @ h.mT,
    "mm": lambda h: torch.mm(h[0], h[1].T),
    "mv": lambda h: torch.mv(h[0], h[1, 0]),
    "bmm": lambda h: torch.bmm(h, h.mT),
    "addmm": lambda h: torch.addmm(h[0], h[1], WEIGHT),
    "baddbmm by name": lambda h: torch.baddbmm(h @ h.mT, batch1=h, batch2=h.mT, alpha=0.5),
    "inner": lambda h: torch.inner(h[0], h[1]),
    "outer": lambda h: torch.outer(h[0, 0], h[0, 1]),
    "tensordot": lambda h: torch.tensordot(h, WEIGHT, 1),
    "einsum": lambda h: torch.einsum("bid,bjd->bij", h, h),
    "einsum of a list": lambda h: torch.einsum("bid,de->bie", [h, WEIGHT]),
    "einsum of three": lambda h: torch.einsum("bid,bjd,bje->bie", h, h, h),
    "einsum of four without an output": lambda h: torch.einsum(
        "bid,de,bje,k", h, WEIGHT, h, h[0, 0]
    ),
    "multi_dot": lambda h: torch.linalg.multi_dot([h[0], h[1].T, h[2], WEIGHT[0]]),
    "bilinear": lambda h: F.bilinear(h, h, WEIGHT[None].expand(2, 8, 8)),
    "linear by name": lambda h: F.linear(h, weight=WEIGHT, bias=WEIGHT[0]),
    "conv1d": lambda h: F.conv1d(h, torch.ones(3, 5, 2) / 8, WEIGHT[0, :3]),
    "conv2d": lambda h: F.conv2d(h[:, None], torch.ones(2, 1, 3, 3) / 9, padding=1),
    "conv3d": lambda h: F.conv3d(h.reshape(-1, 1, 2, 2, 2), torch.ones(1, 1, 1, 2, 1)),
    "conv_transpose1d": lambda h: F.conv_transpose1d(h, torch.ones(5, 3, 2) / 8),
    "mul of activations": lambda h: h[..., :4] * h[..., 4:],
    "mul in place": lambda h: h.clone().mul_(h.flip(-1)),
    "mul of itself": lambda h: h * h,
    "squares and products at one place": lambda h: sum(a * b for a, b in ((h, h), (h, h.flip(-1)))),
    "lerp by an activation": lambda h: torch.lerp(h, h.flip(0), h.flip(-1)),
    "addcmul": lambda h: torch.addcmul(h, h.flip(0), h.flip(-1), value=0.5),
    # Quotients, powers, roots.
    "div of activations": lambda h: h / (2 + h.abs().sum(-1, keepdim=True)),
    "a number over an activation": lambda h: 1.0 / (2 + h * h),
    "div in place": lambda h: h.clone().div_(1 + h * h),
    "addcdiv": lambda h: torch.addcdiv(h, h, 1 + h * h),
    "square": lambda h: h.square(),
    "pow 2": lambda h: h**2,
    "pow 3": lambda h: torch.pow(h, 3.0),
    "pow -0.5": lambda h: (1 + h * h) ** -0.5,
    "a number to the power of an activation": lambda h: 2.0**h,
    "sqrt": lambda h: torch.sqrt(1 + h * h),
    "pow 5": lambda h: h**5,
    "pow -3": lambda h: (2 + h * h) ** -3,
    "pow 2.5": lambda h: h.abs() ** 2.5,
    "an activation to the power of another": lambda h: (1 + h * h) ** h,
    "pow with an exponent for each feature": lambda h: (h * h) ** (2 + WEIGHT[0]),
    "exp": lambda h: h.exp(),
    "expm1": lambda h: torch.expm1(h),
    "log": lambda h: torch.log(0.1 + h * h),
    "log2": lambda h: torch.log2(0.1 + h * h),
    "log10": lambda h: torch.log10(0.1 + h * h),
    "log1p": lambda h: torch.log1p(h * h),
    "logit": lambda h: torch.logit(torch.sigmoid(h)),
    "xlogy": lambda h: torch.xlogy(h, 1 + h * h),
    "log_softmax": lambda h: F.log_softmax(h, -1),
    "logsumexp": lambda h: h.logsumexp(-1, keepdim=True),
    "logsumexp of two axes": lambda h: torch.logsumexp(h, (0, 1)),
    "logaddexp": lambda h: torch.logaddexp(h, h.flip(-1)),
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "sign": lambda h: torch.sign(h) * h,
    "heaviside": lambda h: torch.heaviside(h, torch.tensor(0.5)) * h * h,
    # Norms and distances.
    "norm of order 1": lambda h: h.norm(p=1, dim=-1),
    "cdist": lambda h: torch.cdist(h, h + 1),
    "pairwise_distance": lambda h: F.pairwise_distance(h, h.flip(-1)),
    "var_mean": lambda h: torch.cat(torch.var_mean(h, -1, keepdim=True), -1),
    "std_mean": lambda h: torch.cat(torch.std_mean(h, (0, 1)), -1),
    "norm": lambda h: h / h.norm(dim=-1, keepdim=True),
    "linalg.vector_norm": lambda h: torch.linalg.vector_norm(h, dim=(1, 2)),
    "normalize": lambda h: F.normalize(h, dim=-1),
    "cosine_similarity": lambda h: F.cosine_similarity(h, h.flip(-1), dim=-1),
    "layer_norm": lambda h: F.layer_norm(h, (8,), WEIGHT[0], WEIGHT[1]),
    "rms_norm": lambda h: F.rms_norm(h, (8,), WEIGHT[0]),
    "group_norm": lambda h: F.group_norm(h.mT, 2, WEIGHT[0]),
    "instance_norm": lambda h: F.instance_norm(h),
    "batch_norm": lambda h: F.batch_norm(h.mT, torch.zeros(8), torch.ones(8)),
    "var": lambda h: h.var(-1),
    "std": lambda h: h.std(dim=-1, keepdim=True),
    # Attention.
    "softmax": lambda h: h.softmax(-1),
    "softmax of another axis and dtype": lambda h: F.softmax(h, dim=1, dtype=torch.float32),
    "softmin": lambda h: F.softmin(h, -1),
    "scaled_dot_product_attention": lambda h: F.scaled_dot_product_attention(h, h, h),
    "causal attention": lambda h: F.scaled_dot_product_attention(
        h[:, None], h[:, None], h[:, None], is_causal=True, scale=0.7
    ),
    "masked attention": lambda h: F.scaled_dot_product_attention(
        h, h, h, attn_mask=torch.eye(5, dtype=torch.bool)
    ),
    # Functions.
    "celu": lambda h: torch.celu(h, 0.7),
    "clamp": lambda h: h.clamp(-0.5, 0.7),
    "clamp from above": lambda h: h.clamp(max=0.3),
    "clamp_min in place": lambda h: h.clone().clamp_min_(0.1),
    "elu": F.elu,
    "erf": torch.erf,
    "gelu": F.gelu,
    "gelu by tanh": lambda h: F.gelu(h, approximate="tanh"),
    "gelu by erf": lambda h: 0.5 * h * (1 + torch.erf(h / math.sqrt(2))),
    "glu": F.glu,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "hardtanh": lambda h: F.hardtanh(h, min_val=-0.4, max_val=0.9),
    "leaky_relu": lambda h: F.leaky_relu(h, 0.2),
    "logsigmoid": F.logsigmoid,
    "maximum": lambda h: torch.maximum(h, h.flip(-1)),
    "minimum": lambda h: torch.minimum(h, h.flip(-1)),
    "mish": F.mish,
    "prelu": lambda h: F.prelu(h, torch.linspace(0, 1, 5)),
    "relu": F.relu,
    "relu in place": lambda h: F.relu(h.clone(), inplace=True),
    "relu6": lambda h: F.relu6(4 * h),
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softplus": F.softplus,
    "softplus with a slope of its own": lambda h: F.softplus(h, beta=2.0),
    "hardshrink": F.hardshrink,
    "erfc": torch.erfc,
    "softshrink": F.softshrink,
    "softsign": F.softsign,
    "tanh": torch.tanh,
    "tanhshrink": F.tanhshrink,
    "threshold": lambda h: F.threshold(h, 0.2, 0.2),
    "abs": abs,
}


class Calling(nn.Module):
    """A layer, and a function that its own forward calls."""

    def __init__(self, function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.function = nn.Linear(8, 8), function

    def forward(self, x):
        return self.function(self.layer(x))


def seen(seed):
    return torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_a_function_called_in_a_forward_is_computed_by_spikes(name):
    model = Calling(CASES[name])
    network = LAS(steps=12, progress=False).apply(model, [seen(0), seen(1)])
    wanted, found = model(seen(2)), network(seen(2))
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    error = float((found - wanted).norm() / wanted.norm())
    assert 0 < error < 4e-3, error
    set_form(network, "spikes")
    assert float((network(seen(2)) - found).norm() / wanted.norm()) < 2e-3


WITH_A_ROW_OF_ZEROS = {
    "normalize": lambda h: F.normalize(h, dim=-1),
    "div": lambda h: h / (h.norm(dim=-1, keepdim=True) + 1e-8),
    "rsqrt": lambda h: h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-12),
    "a wide clamp": lambda h: h.clamp(-1e4, 1e4) + h.clamp(max=math.inf),
    "the larger of a bound that is wide itself": lambda h: torch.maximum(
        torch.full((8,), -1e38), h
    ),
    "the larger of a wide bound": lambda h: torch.maximum(h, torch.tensor(-1e9)),
}


@torch.no_grad()
@pytest.mark.parametrize("name", WITH_A_ROW_OF_ZEROS)
def test_rows_of_zeros_and_wide_bounds_cost_other_values_no_precision(name):
    model, x = Calling(WITH_A_ROW_OF_ZEROS[name]), seen(0)
    nn.init.zeros_(model.layer.bias)
    x[:, 0] = 0
    network = LAS(steps=12, progress=False).apply(model, [x])
    wanted = model(x)
    assert float((network(x) - wanted).norm() / wanted.norm()) < 4e-3


@torch.no_grad()
@pytest.mark.parametrize("function", [torch.sigmoid, torch.tanh, torch.erf])
def test_a_flat_function_takes_a_mask_of_infinity(function):
    model = Calling(
        lambda h: function(h.masked_fill(h > 1, math.inf).masked_fill(h < -1, -math.inf))
    )
    network = LAS(steps=12, progress=False).apply(model, [seen(0)])
    assert float((network(seen(1)) - model(seen(1))).norm() / model(seen(1)).norm()) < 4e-3


@pytest.mark.parametrize(
    "function", [lambda h: F.relu(h, inplace=True), lambda h: h.mul_(h.detach()), torch.sigmoid_]
)
def test_what_is_written_in_place_has_gradients(function):
    network = LAS(progress=False).apply(Calling(lambda h: function(h * 1.0)), [seen(0)])
    network(seen(0)).sum().backward()
    assert float(network.layer.weight.grad.abs().max()) > 0


PARAMETER = torch.linspace(0.5, 1.0, 8)
FREE = {
    "a number": lambda h: 2 * h / 3 - 1,
    "a parameter": lambda h: h * PARAMETER,
    "a function of a parameter": lambda h: h * PARAMETER.exp().clamp(max=5),
    "a mask": lambda h: torch.where(torch.arange(8) > 3, h, 0.0).masked_fill(
        torch.eye(5, 8) > 0, 1
    ),
    "an index": lambda h: h[..., torch.tensor([0, 3])].mean(-1, keepdim=True) + h,
    "a mask of its dtype": lambda h: h * (torch.arange(8) > 3).to(h) + torch.ones(8).type_as(h),
    "shapes": lambda h: h * h.shape[-1] ** -0.5,
    "a table by positions": lambda h: h * torch.arange(h.shape[-1]).cos(),
    "lerp": lambda h: torch.lerp(h, h.flip(-1), 0.5).contiguous().float(),
    "in place": lambda h: h.mul_(0.5).add_(h.sum(-1, keepdim=True)),
    "a decision": lambda h: h if bool(h.isfinite().all()) else 0 * h,
    "a loss": lambda h: nn.functional.mse_loss(h, torch.zeros(4, 5, 8)),
    "a mean of a pool": lambda h: F.avg_pool1d(h, 2),
    "a sum over a slice written in place": lambda h: h.clone().index_add_(
        0, torch.tensor([1]), h[:1]
    ),
    "a product of constants": lambda h: h + torch.exp(WEIGHT @ WEIGHT)[0],
    "a rotation by complex numbers": lambda h: torch.view_as_real(
        torch.view_as_complex(h.unflatten(-1, (4, 2)))
        * torch.polar(torch.ones(4), torch.arange(4.0))
    ).flatten(-2),
    "the largest and a choice by it": lambda h: torch.where(h > 0, h, h - h.amax(-1, keepdim=True)),
}


@torch.no_grad()
@pytest.mark.parametrize("name", FREE)
def test_what_is_affine_in_activations_or_a_choice_of_them_passes_as_it_is(name):
    model = Calling(FREE[name]).eval()
    network = LAS(steps=12, progress=False).apply(model, [seen(0)])
    assert network.report.column("site") == ["layer.site"]
    wanted = model(seen(0))
    assert float((network(seen(0)) - wanted).norm() / wanted.norm()) < 1e-3


def test_what_was_written_into_a_tensor_is_an_activation():
    def gate(h):
        both = torch.zeros(*h.shape[:-1], 16)
        both[..., :8] = h
        return both[..., :8] * h

    network = LAS(progress=False).apply(Calling(gate), [seen(0)])
    assert "las_calls.mul_0.factor_0" in network.report.column("site")


REFUSED = {
    "cumprod": lambda h: h.cumprod(-1),
    "mul of complex numbers": lambda h: torch.view_as_real(
        torch.view_as_complex(h.unflatten(-1, (4, 2)))
        * torch.view_as_complex(h.unflatten(-1, (4, 2)))
    ),
    "fft": lambda h: torch.fft.rfft(h).abs(),
    "norm of order 3": lambda h: h.norm(p=3),
    "round": torch.round,
    "sin": torch.sin,
    "item": lambda h: h + h[0, 0, 0].item(),
    "numpy": lambda h: torch.from_numpy(h.detach().numpy()),
    "mul with out=": lambda h: torch.mul(h, h.flip(-1), out=torch.empty(4, 5, 8)),
    "batch_norm with the statistics of the batch": lambda h: F.batch_norm(
        h.mT, None, None, training=True
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_rule_computes_is_refused_with_its_place(name):
    with pytest.raises(
        TypeError, match=rf"'', the model's own forward \(Calling\) calls \w*{name}"
    ):
        LAS(progress=False).apply(Calling(REFUSED[name]), [seen(0)])


def test_a_function_that_nothing_is_known_of_is_refused_where_calibration_did_not_reach_it():
    class Sometimes(Calling):
        deep = False

        def forward(self, x):
            h = torch.tanh(self.layer(x))
            return torch.special.bessel_j0(h) if self.deep else h

    network = LAS(progress=False).apply(Sometimes(None), [seen(0)])
    network.deep = True
    with pytest.raises(ValueError, match="did not reach this call of special_bessel_j0 in Some"):
        network(seen(0))


@pytest.mark.parametrize(
    "chain", [torch.linalg.multi_dot, lambda matrices: torch.chain_matmul(*matrices)]
)
@pytest.mark.filterwarnings("ignore:torch.chain_matmul is deprecated")
def test_activations_in_a_list_of_matrices_become_spikes(chain):
    network = LAS(progress=False).apply(
        Calling(lambda h: chain([h[0], h[1].T, h[2]])), [seen(0), seen(1)]
    )
    sites = [name for name in network.report.column("site") if "matmul" in name]
    assert len(sites) == 2


def test_the_parts_of_a_composed_function_have_ranges_of_their_own():
    network = LAS(progress=False).apply(
        Calling(lambda h: F.cosine_similarity(h, 1e3 * h.flip(-1), dim=-1)), [seen(0)]
    )
    assert sum("mul" in name for name in network.report.column("site")) == 4


@torch.no_grad()
def test_a_product_of_a_value_with_itself_is_a_product_where_no_square_was_seen():
    def times(h, other):
        return h * other

    class Twice(nn.Module):
        def forward(self, x, y):
            return times(x, y)

    x, y = seen(0), seen(1)
    network = LAS(steps=12, progress=False).apply(Twice(), [(x, y), (y, x)])
    assert float((network(x, x) - x * x).norm() / (x * x).norm()) < 4e-3
    squares = LAS(steps=12, progress=False).apply(Twice(), [(x, x)])
    with pytest.raises(ValueError, match="did not reach this call of mul in Twice"):
        squares(x, y)


VIEWED = {
    "layer norm": (nn.LayerNorm(4), lambda norm, h: norm(h.mT.unflatten(-1, (1, -1))[..., :4])),
    "convolution": (nn.Conv2d(5, 5, 1), lambda layer, h: layer(h.unflatten(-1, (4, 2)))),
}


@torch.no_grad()
@pytest.mark.parametrize("name", VIEWED)
def test_what_a_view_follows_lies_in_memory_as_torch_lays_it(name):
    layer, compute = VIEWED[name]

    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = layer

        def forward(self, x):
            return compute(self.part, x).view(-1)

    model = Viewing().eval()
    network = LAS(steps=12, progress=False).apply(model, [seen(0)])
    wanted = model(seen(1))
    assert float((network(seen(1)) - wanted).norm() / wanted.norm()) < 4e-3


class Attending(nn.Module):
    """Attention of a layer's values, folded into other axes."""

    def __init__(self, fold=lambda h: h, **settings):
        super().__init__()
        self.layer, self.fold, self.settings = nn.Linear(16, 16), fold, settings

    def forward(self, x, mask=None):
        h = self.fold(self.layer(x))
        dropout = 0.5 if self.training else 0.0
        return F.scaled_dot_product_attention(h, h, h, mask, dropout_p=dropout, **self.settings)


def of_heads(h):
    return h.unflatten(-1, (4, 4)).transpose(1, 2)


FOLDS = {
    "2 axes": lambda h: h[0],
    "3 axes": lambda h: h,
    "3 axes, heads in the batch": lambda h: of_heads(h).flatten(0, 1),
    "4 axes": of_heads,
    "5 axes, the length before the last but one": lambda h: h.unflatten(-1, (2, 1, 8)).movedim(
        2, 1
    ),
}


@pytest.mark.parametrize("form", ["decoded", "spikes"])
@pytest.mark.parametrize("axes", FOLDS)
def test_attention_of_any_axes_takes_other_batches_and_lengths(axes, form):
    torch.manual_seed(0)
    model = Attending(FOLDS[axes]).eval()
    snn = LAS(10, progress=False).apply(model, [torch.randn(8, 12, 16)])
    set_form(snn, form)
    x = torch.randn(3, 20, 16)
    with torch.no_grad():
        y, exact = snn(x), model(x)
    assert y.shape == exact.shape
    assert relative(y, exact) < 0.01


@pytest.mark.parametrize("form", ["decoded", "spikes"])
@pytest.mark.parametrize("kind", ["boolean", "float32", "float64", "bfloat16"])
def test_a_query_that_sees_nothing_gets_zero_in_a_call(kind, form):
    torch.manual_seed(0)
    model = Attending(of_heads).eval()
    seen = torch.rand(8, 1, 12, 12) > 0.4
    seen[:, :, 3] = False
    given = seen
    if kind != "boolean":
        given = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf).to(getattr(torch, kind))
    snn = LAS(10, progress=False).apply(model, [(torch.randn(8, 12, 16), seen | True)])
    set_form(snn, form)
    x = torch.randn(8, 12, 16)
    with torch.no_grad():
        y, exact = snn(x, given), model(x, seen)
    assert (exact[:, :, 3] == 0).all() and (y[:, :, 3] == 0).all()
    assert relative(y, exact) < 0.01


def test_a_call_of_attention_has_no_dropout_in_training():
    torch.manual_seed(0)
    model = Attending(of_heads).eval()
    snn = LAS(10, progress=False).apply(model, [torch.randn(8, 12, 16)])
    x = torch.randn(2, 12, 16)
    exact = snn(x)
    torch.testing.assert_close(snn.train()(x), exact)
