"""signGD conversion against the cumulative oracle: the plain network once a step, in a loop."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikeloom
from spikeloom.convert import SignGD
from spikeloom.convert.signgd.time import Machine
from spikeloom.neurons import Constant, Exponential, Inverse


def oracle(network, *inputs):
    """The decoded outputs after every step, from one pass of the graph per step."""
    machine = Machine(network.operators, network.plan, over_time=False)
    estimates, outputs = {}, []
    for t in range(network.steps):

        def track(site, operands, compute, t=t):
            f = compute()
            y = estimates.get(site.name, torch.zeros_like(f))
            eta = torch.tensor(network.schedules[site.name].steps(t + 1)[t]).float()
            step = (torch.as_tensor(network.scales[site.name]) * eta).to(f.dtype)
            above = y > f if site.strict else y >= f
            estimates[site.name] = torch.where(above, y - step, y + step)
            return estimates[site.name]

        (output,) = machine(network.captured.flatten(inputs, {}), track)
        outputs.append(output)
    return torch.stack(outputs)


def cnn(activation=nn.GELU):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        activation(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 8),
        activation(),
        nn.Linear(8, 3),
    )


class Attending(nn.Module):
    def __init__(self, need_weights):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.need_weights = need_weights

    def forward(self, x):
        x = x + self.attention(x, x, x, need_weights=self.need_weights)[0]
        return self.norm(x).mean(1)


class Styles(nn.Module):
    """The same functions called as functions, methods, in place, and over branches."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8)

    def forward(self, x):
        h = torch.relu(self.a(x))
        g = F.silu(self.b(h)).clone()
        g += 1.0
        h = torch.cat((h, g), -1).view(x.size(0), 2, 8).permute(0, 2, 1)
        left, right = h.relu_().chunk(2, dim=1)
        return (left.flatten(1) * right.flatten(1)) / (1.0 + right.flatten(1).exp())


# A schedule that serves any node; leaves less to fit.
QUICK = Exponential(1.0, 0.85)

MODELS = {
    "cnn gelu": (cnn, (1, 8, 8)),
    "cnn leaky": (lambda: cnn(lambda: nn.LeakyReLU(0.3)), (1, 8, 8)),
    "attention": (lambda: Attending(False), (5, 8)),
    "attention with weights": (lambda: Attending(True), (5, 8)),
    "styles": (Styles, (6,)),
}


def built(name, count=64, dtype=torch.float32):
    make, shape = MODELS[name]
    model = make().to(dtype)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
    return model.eval(), torch.randn(count, *shape, dtype=dtype)


def relative(y, exact):
    y, exact = y.detach(), exact.detach()
    return float((y - exact).square().mean() / exact.square().mean())


# --- What the network computes ------------------------------------------------------------------


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize("name", ["cnn gelu", "attention", "styles"])
def test_all_steps_at_once_equal_the_loop_over_steps(name, decompose):
    # In float64 no rounding decides a comparison, so all 64 steps must agree.
    model, x = built(name, 8, torch.float64)
    snn = SignGD(64, Exponential(1.0, 0.9), decompose, margin=1.2).apply(model, x)
    with torch.no_grad():
        found = torch.stack(snn(x, at=range(1, 65)))
        assert torch.allclose(found, oracle(snn, x), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["cnn gelu", "styles"])
def test_float32_logits_equal_the_loop_to_a_hundred_thousandth(name):
    model, x = built(name, 16)
    snn = SignGD(64, Exponential(1.0, 0.9), margin=1.2).apply(model, x)
    with torch.no_grad():
        assert (snn(x) - oracle(snn, x)[-1]).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["cnn leaky", "attention with weights", "styles"])
def test_hosts_in_increments_equal_the_fast_path(name):
    model, x = built(name, 8, torch.float64)
    fast = SignGD(64, Exponential(1.0, 0.9), margin=1.2).apply(model, x)
    slow = SignGD(64, Exponential(1.0, 0.9), margin=1.2, make=spikeloom.SpikingLayer).apply(
        model, x
    )
    with torch.no_grad():
        assert (fast(x) - slow(x)).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore:signGD")  # of what has not settled
@pytest.mark.parametrize("name", ["cnn leaky", "styles"])
def test_output_approaches_the_ann(name):
    model, x = built(name)
    with torch.no_grad():
        errors = [relative(SignGD(steps).apply(model, x)(x), model(x)) for steps in (4, 32)]
    assert errors[1] < 1e-3 and errors[1] < 0.1 * errors[0]


def test_deeper_nodes_keep_more_of_their_path_for_late_steps():
    torch.manual_seed(0)
    model, x = built("cnn gelu")
    snn = SignGD(32, search=False).apply(model, x)
    holds = [schedule.hold for schedule in snn.schedules.values()]
    assert holds[-1] > holds[0] == 0


def test_anytime_outputs_are_those_of_the_steps():
    model, x = built("cnn gelu", 6)
    snn = SignGD(12).apply(model, x)
    early, late = snn(x, at=[5, 12])
    assert torch.equal(late, snn(x)) and not torch.equal(early, late)


def test_a_single_step_gives_a_single_output():
    model, x = built("styles", 6)
    snn = SignGD(12, QUICK, margin=1.2).apply(model, x)
    assert torch.equal(snn(x, at=5), snn(x, at=[5])[0])
    assert len(snn(x, at=(t for t in (3, 5)))) == 2 and snn(x, at=[]) == []
    with pytest.raises(ValueError, match="at: steps go from 1 to 12, got 13"):
        snn(x, at=13)


def test_one_sample_and_another_batch_size_are_welcome():
    model, x = built("attention with weights")
    snn = SignGD(32).apply(model, x)
    assert torch.allclose(snn(x[:1]), snn(x)[:1], atol=1e-5)
    assert snn(x[:0]).shape == (0, 8)


def test_leaky_relu_keeps_its_slope():
    model = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.3), nn.Linear(8, 2))
    x = torch.randn(128, 4)
    snn = SignGD(32).apply(model, x)
    assert relative(snn(x), model(x)) < 1e-4


@pytest.mark.parametrize(
    "function",
    [
        *(nn.ReLU6(), nn.Hardtanh(), nn.Hardswish(), nn.Hardsigmoid(), nn.SELU(), nn.CELU()),
        *(nn.Mish(), nn.Softsign(), nn.Softplus(2.0), nn.ELU(0.5), nn.GELU("tanh"), nn.SiLU()),
        *(nn.Sigmoid(), nn.Tanh(), nn.PReLU(), nn.LogSigmoid(), nn.Softmax(-1), nn.LayerNorm(8)),
        *(nn.GLU(), nn.RMSNorm(8), nn.LogSoftmax(-1)),
        *(torch.abs, torch.square, torch.exp, torch.erf, torch.sin, lambda x: x**3),
        *(lambda x: x.clamp(-1, 1), lambda x: torch.clip(x, -1, 1)),
        *(lambda x: x.clip(min=0), lambda x: x.amax(-1, keepdim=True) - x),
        *(lambda x: torch.maximum(x, x.flip(-1)), lambda x: torch.minimum(x, 0.5 * x)),
        *(lambda x: x @ x.mT, lambda x: torch.einsum("bij,j->bi", x, torch.arange(8.0)).relu()),
        *(lambda x: torch.einsum("bij,bkj->bik", x, x), lambda x: torch.baddbmm(x @ x.mT, x, x.mT)),
        *(lambda x: F.scaled_dot_product_attention(x, x, x), lambda x: 1.0 / (1.0 + x * x)),
    ],
)
def test_every_function_converts(function):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.inner = nn.Linear(8, 8), None
            if isinstance(function, nn.Module):
                self.inner = function

        def forward(self, x):
            return (self.inner or function)(self.layer(x))

    model, x = Model(), torch.randn(48, 3, 8)
    with torch.no_grad():
        assert relative(SignGD(32, QUICK, margin=1.2).apply(model, x)(x), model(x)) < 1e-3


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (nn.GroupNorm(2, 4), (4, 5, 5)),
        (nn.InstanceNorm2d(4), (4, 5, 5)),
        (nn.MaxPool1d(2), (4, 8)),
        (nn.MaxPool2d(3, 2, padding=1), (4, 7, 7)),
        (nn.MaxPool3d(2), (2, 4, 4, 4)),
    ],
)
def test_every_spatial_operator_converts(function, shape):
    model, x = nn.Sequential(nn.Identity(), function), torch.randn(32, *shape)
    assert relative(SignGD(32, QUICK, margin=1.2).apply(model, x)(x), model(x)) < 1e-4


@pytest.mark.parametrize(
    ("function", "shape", "operators"),
    [
        (nn.MaxPool2d(3, 2, padding=1), (2, 7, 7), ["maximum"] * 4),
        (nn.LayerNorm(6), (6,), ["square", "mul_inverse_sqrt"]),
        (nn.LayerNorm((3, 6)), (3, 6), ["square", "mul_inverse_sqrt"]),
        (nn.RMSNorm(6), (6,), ["square", "mul_inverse_sqrt"]),
        (nn.GroupNorm(2, 4), (4, 5), ["square", "mul_inverse_sqrt"]),
        (nn.Softmax(-1), (6,), ["exp", "div"]),
        (lambda x: x @ x.mT, (4, 6), ["mul"]),
        (lambda x: F.scaled_dot_product_attention(x, x, x), (4, 6), ["mul", "exp", "div", "mul"]),
    ],
)
def test_chains_are_the_published_ones_and_equal_the_operator(function, shape, operators):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = function if isinstance(function, nn.Module) else None

        def forward(self, x):
            return (self.inner or function)(x)

    model, x = Model(), torch.rand(32, *shape)
    snn = SignGD(48, QUICK, decompose=True, margin=1.2).apply(model, x)
    assert snn.report.column("operator") == operators
    assert relative(snn(x), model(x)) < 1e-3


# --- Hugging Face ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def test_bert_converts_and_returns_its_own_output_class(transformers):
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
    )
    model = transformers.BertForSequenceClassification(config).eval()
    ids = torch.randint(0, 40, (12, 6))
    mask = torch.ones_like(ids)
    mask[:4, 4:] = 0
    call = {"input_ids": ids, "attention_mask": mask}
    snn = SignGD(48, QUICK, margin=1.2).apply(model, [call])
    with torch.no_grad():
        found, exact = snn(**call), model(**call)
    assert type(found) is type(exact)
    assert relative(found.logits, exact.logits) < 1e-3
    places = snn.report.column("node")
    assert "bert.encoder.layer.0.intermediate.intermediate_act_fn (GELUActivation)" in places
    assert "bert.embeddings.LayerNorm (LayerNorm)" in places


def test_vit_converts(transformers):
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=3,
    )
    model, x = transformers.ViTForImageClassification(config).eval(), torch.randn(16, 1, 8, 8)
    snn = SignGD(48, QUICK, margin=1.2).apply(model, x)
    with torch.no_grad():
        assert relative(snn(x).logits, model(x).logits) < 1e-3


# --- The module -----------------------------------------------------------------------------------


def test_the_users_model_is_left_as_it_was():
    model, x = built("cnn gelu")
    model.train()
    before = copy.deepcopy(model.state_dict())
    SignGD(8).apply(model, x)
    assert model.training and all(module.training for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_conversion_is_in_evaluation_mode():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout())
    assert model.training
    snn = SignGD(4).apply(model, torch.randn(8, 3))
    assert model.training and not any(module.training for module in snn.modules())


def test_batch_norms_are_folded_into_the_layer_before():
    model, x = built("cnn gelu")
    names = {node.name for node in SignGD(4).apply(model, x).operators.graph.nodes}
    assert not any("batch_norm" in name for name in names)
    lone = nn.Sequential(nn.BatchNorm2d(1), nn.ReLU(), nn.BatchNorm2d(1))
    x = torch.randn(16, 1, 8, 8)
    assert relative(SignGD(32).apply(lone.eval(), x)(x), lone(x)) < 1e-4


def test_dropout_is_left_out():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.ReLU(), nn.Dropout1d(0.5)).train()
    x = torch.randn(32, 4)
    snn = SignGD(32).apply(model, x)
    assert torch.equal(snn(x), snn(x))
    assert relative(snn(x), model.eval()(x)) < 1e-4


def test_copies_compute_the_same():
    model, x = built("cnn gelu", 8)
    snn = SignGD(8).apply(model, x)
    twin = copy.deepcopy(snn)
    with torch.no_grad():
        expected = snn(x).clone()
        next(twin.operators.parameters()).zero_()
        assert torch.equal(snn(x), expected) and not torch.equal(twin(x), expected)


def test_the_report_says_where_how_and_how_well():
    model, x = built("cnn leaky")
    snn = SignGD(16).apply(model, x)
    report = snn.report
    assert report.column("node")[0] == "3 (MaxPool2d)"
    assert report.column("operator")[0] == "max_pool2d of leaky_relu"
    assert report.column("as")[0] == "tracked whole"
    assert max(report.column("residual")) < 0.01
    assert all(0.3 < ones < 0.7 for ones in report.column("ones"))
    assert "16 steps" in str(report) and "do not measure energy" in str(report)


def test_gradients_reach_the_weights():
    model, x = built("cnn gelu", 8)
    snn = SignGD(16).apply(model, x)
    snn(x).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in snn.parameters())


@pytest.mark.parametrize("schedule", [Inverse(), Constant(0.1), [0.5, 0.3, 0.2, 0.1] * 2])
def test_a_schedule_of_your_own_serves_all_nodes(schedule):
    model, x = built("cnn gelu")
    snn = SignGD(8, schedule).apply(model, x)
    assert len(set(map(repr, snn.schedules.values()))) == 1
    with torch.no_grad():
        assert relative(snn(x), model(x)) < 0.3


@pytest.mark.parametrize("form", ["tensor", "list", "labelled", "generator"])
def test_calibration_takes_batches_in_any_usual_form(form):
    model, x = built("styles")
    data = {
        "tensor": x,
        "list": [x[:32], x[32:]],
        "labelled": [(x, torch.zeros(len(x)))],
        "generator": (part for part in x.split(16)),
    }[form]
    snn = SignGD(16).apply(model, data)
    assert snn(x[:3]).shape == model(x[:3]).shape


class Dropped(nn.Module):
    """What is written into the result of a dropout that is off is written into its input."""

    def __init__(self):
        super().__init__()
        self.layer, self.drop = nn.Linear(4, 4), nn.Dropout()

    def forward(self, x):
        h = self.layer(x)
        return F.relu_(self.drop(h)) + h


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 3, 1), nn.GELU())
        self.head = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Tanh())
        self.function, self.constant = function, nn.Parameter(torch.randn(3, 1, 1))

    def forward(self, x):
        return self.head(self.function(self.stem(x), self.constant))


def assert_equals_the_loop(model, *inputs):
    snn = SignGD(8, Exponential(1.0, 0.8), margin=1.2).apply(model.double(), [inputs])
    with torch.no_grad():
        found = torch.stack(snn(*inputs, at=range(1, 9)))
        torch.testing.assert_close(found, oracle(snn, *inputs), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda h, c: h.contiguous(memory_format=torch.channels_last),
        lambda h, c: h.clone(memory_format=torch.channels_last),
        lambda h, c: h.to(memory_format=torch.channels_last),
        lambda h, c: h * 0.5 + h.mean([]),
        lambda h, c: torch.maximum(h, c),
        lambda h, c: torch.maximum(c, h),
        lambda h, c: h.view_as(h),
    ],
)
def test_a_layout_an_empty_list_of_axes_and_a_constant_operand_are_welcome(function):
    assert_equals_the_loop(Calling(function), torch.randn(8, 2, 4, 4, dtype=torch.float64))


def test_dropout_that_is_off_is_its_input_itself():
    model, x = Dropped().eval(), torch.randn(32, 4)
    with torch.no_grad():
        assert torch.equal(model(x), 2.0 * model.layer(x).relu())
        assert (SignGD(32).apply(model, x)(x) - model(x)).abs().max() < 0.01


class Masked(nn.Module):
    def __init__(self, place):
        super().__init__()
        self.parts, self.place = nn.Linear(8, 24), place

    def forward(self, x, mask):
        q, k, v = self.parts(x).tanh().unflatten(-1, (6, 4)).transpose(1, 2).chunk(3, 1)
        return F.scaled_dot_product_attention(q, k, v, self.place(mask))


@pytest.mark.parametrize(
    "place",
    [
        lambda mask: None,
        lambda mask: mask[:, None, None],
        lambda mask: mask[:, None, None].expand(-1, 2, 5, -1),
        lambda mask: mask[0, None],
        lambda mask: torch.where(mask[:, None, None], 0.0, -torch.inf).double(),
    ],
)
def test_attention_over_time_is_attention_at_each_step(place):
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    assert_equals_the_loop(Masked(place), torch.randn(3, 5, 8, dtype=torch.float64), mask)


def test_a_conversion_in_inference_mode_is_of_use_outside():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)), torch.randn(16, 4)
    with torch.inference_mode():
        snn = SignGD(8).apply(model, x + 0.0)
    x.requires_grad_()
    snn(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_steps_may_be_numbers_of_numpy():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.GELU()), torch.randn(16, 4)
    snn = SignGD(8).apply(model, x)
    assert torch.equal(snn(x, at=np.int64(3)), snn(x, at=3))


# --- Bad input ------------------------------------------------------------------------------------


class Inner(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(4, 4), function

    def forward(self, x):
        return self.function(self.layer(x))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: torch.fmod(x, 0.5), "fmod"),
        (lambda x: torch.where(x > 0, x, -x), "gt"),
        (lambda x: torch.floor(x), "floor"),
        (lambda x: x.sort(-1).values, "sort"),
        (lambda x: torch.floor_divide(x, 2.0), "floor_divide"),
        (lambda x: x.to(torch.int32).float(), "to"),
        (lambda x: x * torch.rand_like(x), "rand_like"),
    ],
)
def test_an_unhandled_operator_is_named_with_its_place(function, name):
    model = nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(), nn.ModuleDict({"odd": Inner(function)})["odd"]
    )
    with pytest.raises(NotImplementedError, match=rf"{name} at 2 \(Inner\)"):
        SignGD(8).apply(model, torch.randn(8, 4))


def test_control_flow_on_values_is_refused():
    def branch(x):
        return x.relu() if x.sum() > 0 else x

    with pytest.raises(TypeError, match="control flow that depends on values"):
        SignGD(8).apply(Inner(branch), torch.randn(8, 4))


def test_dropout_that_stays_on_is_refused():
    with pytest.raises(ValueError, match="stays on in evaluation mode"):
        SignGD(8).apply(Inner(lambda x: F.dropout(x.relu(), 0.5, True)), torch.randn(8, 4))


def test_batch_statistics_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.ReLU())
    with pytest.raises(ValueError, match=r"batch_norm at 1 \(BatchNorm1d\) uses the"):
        SignGD(8).apply(model, torch.randn(8, 4))


def test_writing_into_a_view_that_is_read_again_is_refused():
    def write(x):
        x[:, :2].relu_()
        return x.relu()

    with pytest.raises(TypeError, match="writes into a view"):
        SignGD(8).apply(Inner(write), torch.randn(8, 4))


@pytest.mark.parametrize(
    "view",
    [
        lambda h: h.detach(),
        lambda h: h.mT,
        lambda h: h.expand_as(h),
        lambda h: h.view_as(h),
        lambda h: h.tensor_split(2, 1)[0],
        lambda h: h.swapaxes(0, 1),
    ],
)
def test_a_view_of_any_kind_that_is_written_into_is_seen(view):
    def write(h):
        view(h).relu_()
        return h.tanh()

    with pytest.raises(TypeError, match="relu_ at the forward of Inner writes into a view"):
        SignGD(8).apply(Inner(write), torch.randn(8, 4))


def test_a_buffer_that_every_call_changes_is_refused():
    class Counting(nn.BatchNorm1d):
        def forward(self, x):
            self.num_batches_tracked.add_(1)
            return x.relu() * self.num_batches_tracked

    with pytest.raises(TypeError, match=r"add_ at 1 \(Counting\) writes into a buffer"):
        SignGD(8).apply(nn.Sequential(nn.Linear(4, 4), Counting(4)), torch.randn(8, 4))


def test_an_affine_model_has_nothing_to_convert():
    with pytest.raises(ValueError, match="nothing to convert"):
        SignGD(8).apply(nn.Linear(4, 2), torch.randn(8, 4))


@pytest.mark.parametrize("data", [[], iter(()), torch.zeros(0, 1, 8, 8)])
def test_an_empty_calibration_set_is_refused(data):
    with pytest.raises(ValueError, match=r"no (batch|sample)"):
        SignGD(8).apply(cnn(), data)


def test_nan_in_calibration_is_refused():
    with pytest.raises(ValueError, match="NaN or infinity"):
        SignGD(8).apply(cnn().eval(), torch.full((4, 1, 8, 8), torch.nan))


def test_values_beyond_reach_are_warned_of():
    model, x = built("cnn gelu")
    with pytest.warns(UserWarning) as seen:
        SignGD(8, Exponential(0.15, 0.95), scale=0.3).apply(model, x)
    texts = [str(warning.message) for warning in seen]
    assert any(
        "% of the values of max_pool2d of gelu at 3 (MaxPool2d) lie beyond" in text
        for text in texts
    )
    assert all("leave out scale and margin" in text for text in texts)


def test_a_quantile_that_cuts_much_is_warned_of():
    model, x = built("cnn gelu")
    with pytest.warns(UserWarning, match="lie beyond the node's reach.* a larger quantile"):
        SignGD(8, QUICK, quantile=0.3, margin=1.0, per="neuron").apply(model, x)


def test_a_fitted_conversion_does_not_warn():
    model, x = built("cnn gelu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SignGD(8).apply(model, x)


@pytest.mark.parametrize("t", [0, 9, True, 2.0])
def test_steps_beyond_the_schedule_are_refused(t):
    model, x = built("styles")
    snn = SignGD(8).apply(model, x)
    with pytest.raises(ValueError, match="steps go from 1 to 8"):
        snn(x, at=[t])


def test_a_schedule_that_is_too_short_is_refused():
    model, x = built("styles")
    with pytest.raises(ValueError, match="the schedule has 2 steps"):
        SignGD(8, [0.5, 0.25]).apply(model, x)


def test_other_inputs_than_in_calibration_are_refused():
    model, x = built("cnn gelu")
    snn = SignGD(4, QUICK, margin=1.2).apply(model, x)
    with pytest.raises(ValueError, match=r"shape \[batch, 1, 8, 8\], got \[2, 1, 9, 9\]"):
        snn(torch.randn(2, 1, 9, 9))
    with pytest.raises(TypeError, match=r"inputs of torch.float32, got torch.float64"):
        snn(x.double())
    with pytest.raises(TypeError, match=r"float64, got torch.float32; use x.to\(torch.float64\)"):
        snn.double()(x)
    with pytest.raises(TypeError, match="got 2 and none"):
        snn(x, x)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps: must be at least 1"),
        ({"steps": 4.0}, TypeError, "steps: must be an int"),
        ({"samples": 0}, ValueError, "samples: must be at least 1"),
        ({"schedule": "fast"}, ValueError, "schedule: must be 'auto'"),
        ({"schedule": 3}, TypeError, "schedule: must be"),
        ({"per": "layer"}, ValueError, "per: must be"),
        ({"make": "norse"}, TypeError, "make: must be a function such as .*, got 'norse'"),
        ({"quantile": 0.0}, ValueError, "quantile: must lie"),
        ({"margin": -1.0}, ValueError, "margin: must be positive"),
        ({"scale": float("nan")}, ValueError, "scale: must be positive"),
        ({"scale": "big"}, ValueError, "scale: must be positive"),
    ],
)
def test_bad_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        SignGD(**settings)


def test_a_function_is_no_model():
    with pytest.raises(TypeError, match=r"model: must be a torch\.nn\.Module"):
        SignGD().apply(torch.relu, torch.randn(4, 4))


def test_a_recipe_shows_what_is_not_the_default():
    assert repr(SignGD()) == "SignGD()"
    assert repr(SignGD(24, [0.5, 0.25], per="node")) == (
        "SignGD(steps=24, schedule=Table(values=(0.5, 0.25)), per='node')"
    )
