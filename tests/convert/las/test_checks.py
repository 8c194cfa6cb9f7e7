"""What no rule can convert is refused with its place and what it does, never left in silence."""

import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from spikeloom.convert import LAS
from spikeloom.convert.las.layers import Spiking
from spikeloom.neurons import fit_reduced

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

from tests.convert.las.families import FAMILIES, SIZES, inputs  # noqa: E402  # needs transformers


class HandMade(nn.Module):
    """Attention of one head as it is often written."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(torch.softmax(q @ k.transpose(-2, -1), -1) @ v)


class Inline(nn.Module):
    """A function called in the model's own forward."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return nn.functional.gelu(self.layer(x))


def apply(model, batch, **settings):
    return LAS(progress=False, **settings).apply(model.eval(), [batch])


def test_attention_by_hand_is_named_with_its_place():
    model = nn.Sequential(nn.LayerNorm(8), HandMade())
    with pytest.raises(TypeError, match=r"1 \(HandMade\) calls matmul, softmax\. Use modules"):
        apply(model, torch.randn(2, 5, 8))
    network = apply(model, torch.randn(2, 5, 8), exclude=["1"])
    assert type(network[1].qkv) is nn.Linear


def test_a_function_in_the_model_s_own_forward_is_named():
    with pytest.raises(TypeError, match=r"'', the model's own forward \(Inline\) calls gelu"):
        apply(Inline(), torch.randn(2, 8))
    network = apply(Inline(), torch.randn(2, 8), exclude=[""])
    assert isinstance(network.layer, Spiking)


class Outside(nn.Module):
    """Computes where torch does not see it."""

    def __init__(self, compute) -> None:
        super().__init__()
        self.layer, self.compute = nn.Linear(8, 8), compute

    def forward(self, x):
        return self.compute(self.layer(x))


OUTSIDE = {
    "numpy": lambda y: torch.from_numpy(np.tanh(y.detach().numpy())),
    "__array__": lambda y: torch.from_numpy(np.tanh(np.asarray(y.detach()))),
    "tolist": lambda y: torch.tensor(y.tolist()),
    "__dlpack__": lambda y: torch.from_dlpack(np.tanh(np.from_dlpack(y.detach()))),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_is_computed_outside_of_torch_is_named(name):
    model, x = nn.Sequential(nn.Linear(8, 8), Outside(OUTSIDE[name])), torch.randn(4, 8)
    with pytest.raises(TypeError, match=rf"1 \(Outside\) calls {name}\."):
        apply(model, x)
    assert type(apply(model, x, exclude=["1"])[1].layer) is nn.Linear


def test_the_tables_of_an_attention_are_no_part_of_the_model():
    fit_reduced.cache_clear()  # so that they are fitted while the model is watched
    model = transformers.BertModel(transformers.BertConfig(**SIZES))
    assert apply(model, inputs("bert")).report.rows


def test_whole_numbers_and_constants_from_outside_are_no_values_of_the_network():
    def mask(y):
        rows = torch.arange(len(y)).tolist()
        return y + torch.from_numpy(np.zeros(8, "float32")) + torch.tensor(rows)[:, None]

    network = apply(nn.Sequential(nn.Linear(8, 8), Outside(mask)), torch.randn(4, 8))
    assert isinstance(network[1].layer, Spiking)


def test_many_places_are_counted():
    model = nn.Sequential(*(Inline() for _ in range(9)))
    with pytest.raises(TypeError, match=r"5 \(Inline\) calls gelu; and 3 more\. Use"):
        apply(model, torch.randn(2, 8))


def test_a_module_that_only_looks_like_one_with_a_rule_is_found():
    model = nn.Sequential(nn.ModuleList([nn.Linear(8, 8)])[0], DoublingRMSNorm(8))
    with pytest.raises(ValueError, match=r"output computes something else, by 5\.0e-01"):
        apply(model, torch.randn(4, 8))
    assert apply(model, torch.randn(4, 8), exclude=["1"])(torch.randn(4, 8)).shape == (4, 8)


def small(name, **sizes):
    torch.manual_seed(0)
    config = getattr(transformers, FAMILIES[name][1])(**{**FAMILIES[name][2], **sizes})
    return lambda head: getattr(transformers, head)(config)


@pytest.mark.parametrize(
    "family, head, place",
    [
        ("roberta", "RobertaForMaskedLM", r"lm_head \(RobertaLMHead\) calls gelu"),
        ("roberta", "RobertaForSequenceClassification", r"classifier .* calls tanh"),
        ("distilbert", "DistilBertForSequenceClassification", r"own forward .* calls relu"),
    ],
)
def test_a_head_that_calls_functions_is_named(family, head, place):
    with pytest.raises(TypeError, match=place):
        apply(small(family)(head), inputs(family))


@torch.no_grad()
@pytest.mark.parametrize(
    "family, head, exclude",
    [
        ("bert", "BertForSequenceClassification", []),
        ("distilbert", "DistilBertForMaskedLM", []),
        ("distilbert", "DistilBertForSequenceClassification", [""]),
        ("roberta", "RobertaForMaskedLM", ["lm_head"]),
    ],
)
def test_heads_of_modules_or_excluded_ones_are_converted(family, head, exclude):
    model = small(family)(head).eval()
    network = apply(model, inputs(family), steps=10, exclude=exclude)
    wanted = model(**inputs(family))[0]
    assert float((network(**inputs(family))[0] - wanted).norm() / wanted.norm()) < 0.02


def test_an_unknown_architecture_is_named():
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=10, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    with pytest.raises(ValueError, match=r"architecture 't5' is not supported"):
        batch = {"input_ids": torch.ones(1, 2, dtype=torch.long)}
        apply(model, {**batch, "decoder_input_ids": batch["input_ids"]})


def test_an_unknown_architecture_within_a_model_is_named_with_its_place():
    model = nn.ModuleDict({"mpnet": transformers.MPNetModel(transformers.MPNetConfig(**SIZES))})
    model.forward = lambda **batch: model["mpnet"](**batch)
    with pytest.raises(ValueError, match=r"architecture 'mpnet' of mpnet is not supported"):
        apply(model, inputs("bert"))


CALLS = {
    "mm": lambda h: torch.mm(h, h.T),
    "mv": lambda h: torch.mv(h, h[0]),
    "inner": lambda h: torch.inner(h, h),
    "tensordot": lambda h: torch.tensordot(h, h, 1),
    "bilinear": lambda h: nn.functional.bilinear(h, h, torch.ones(2, 8, 8)),
    "conv3d": lambda h: nn.functional.conv3d(h.view(-1, 1, 2, 2, 2), torch.ones(1, 1, 1, 1, 1)),
    "log_softmax": lambda h: nn.functional.log_softmax(h, -1),
    "softmin": lambda h: nn.functional.softmin(h, -1),
    "selu": nn.functional.selu,
    "celu": torch.celu,
    "glu": nn.functional.glu,
    "prelu": lambda h: nn.functional.prelu(h, torch.tensor([0.2])),
    "hardsigmoid": nn.functional.hardsigmoid,
    "hardtanh": nn.functional.hardtanh,
    "logsigmoid": nn.functional.logsigmoid,
    "softsign": nn.functional.softsign,
    "threshold": lambda h: nn.functional.threshold(h, 0.0, 0.0),
    "batch_norm": lambda h: nn.functional.batch_norm(h, torch.zeros(8), torch.ones(8)),
    "group_norm": lambda h: nn.functional.group_norm(h, 2),
    "erf": torch.erf,
}


@pytest.mark.parametrize("name", CALLS)
def test_every_product_norm_and_function_outside_of_modules_is_named(name):
    class Calling(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return CALLS[name](self.layer(x))

    with pytest.raises(TypeError, match=rf"\(Calling\) calls {name}\. Use"):
        apply(Calling(), torch.randn(8, 8))


class Computing(nn.Module):
    """A function of one activation, or of two, between layers that have rules."""

    def __init__(self, compute, count=1):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.act, self.gain = nn.SiLU(), nn.Parameter(torch.rand(8))
        self.compute, self.count = compute, count

    def forward(self, x):
        h = self.act(self.a(x))
        return self.compute(h, self.b(x)) if self.count == 2 else self.compute(h)


VALUES = {
    "mul": lambda h: h * h,
    "norm, div": lambda h: h / h.norm(dim=-1, keepdim=True),
    "__rdiv__": lambda h: 1 / h,
    "pow": lambda h: h**2,
    "sqrt": lambda h: torch.sqrt(h + 9),
    "abs": torch.Tensor.abs,
    "clamp": lambda h: h.clamp(-1, 1),
    "clamp_min_": lambda h: h.clamp_min_(0.0),
    "where": lambda h: torch.where(h > 0, h, torch.zeros(8)),
    "(where)": lambda h: torch.ones(len(h), 8).where(h > 0, torch.zeros(8)),
    "masked_fill": lambda h: h.masked_fill(h < 0, 0.0),
    "__getitem__": lambda h: h[torch.arange(len(h)), h.argmax(-1)],
    "maximum": lambda h: torch.maximum(h, torch.zeros(8)),
    "amax": lambda h: h - h.amax(-1, keepdim=True),
    "sort": lambda h: h.sort().values,
    "round": torch.round,
    "var": lambda h: h.var(-1),
    "normalize": nn.functional.normalize,
    "mish": nn.functional.mish,
    "sin": torch.sin,
    "cumprod": lambda h: h.cumprod(-1),
    "item": lambda h: h + h[0, 0].item(),
    "fft_rfft": lambda h: torch.fft.rfft(h).real,
}


@pytest.mark.parametrize("name", VALUES)
def test_every_function_of_an_activation_outside_of_modules_is_named(name):
    model = nn.Sequential(nn.Linear(8, 8), Computing(VALUES[name]))
    with pytest.raises(TypeError, match=rf"1 \(Computing\) calls {name}\. Use"):
        apply(model, torch.randn(4, 8))
    assert type(apply(model, torch.randn(4, 8), exclude=["1"])[1].a) is nn.Linear


PRODUCTS = {
    "mul": lambda a, b: a * b,
    "mul_": lambda a, b: a.mul_(b),
    "addcmul": lambda a, b: torch.addcmul(a, a, b),
    "div": lambda a, b: a / b,
    "lerp": lambda a, b: torch.lerp(a, b, a),
    "cosine_similarity": nn.functional.cosine_similarity,
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_of_two_activations_is_named(name):
    with pytest.raises(TypeError, match=rf"own forward \(Computing\) calls {name}\. Use"):
        apply(Computing(PRODUCTS[name], 2), torch.randn(4, 8))


def test_a_product_with_what_was_written_into_a_tensor_is_named():
    def gate(a, b):
        both = torch.zeros(len(a), 16)
        both[:, :8] = a
        return both[:, :8] * b

    with pytest.raises(TypeError, match=r"\(Computing\) calls mul\. Use"):
        apply(Computing(gate, 2), torch.randn(4, 8))


CONSTANT = {
    "a number": lambda h: 2 * h / 3 - 1,
    "a parameter": lambda h: h * PARAMETER,
    "a function of a parameter": lambda h: h * PARAMETER.exp().clamp(max=5),
    "a mask": lambda h: torch.where(torch.arange(8) > 3, h, 0.0).masked_fill(
        torch.eye(4, 8) > 0, 1
    ),
    "a mask by the method": lambda h: h.where(torch.arange(8) > 3, 0.0),
    "an index": lambda h: h[:, torch.tensor([0, 3])].mean(-1, keepdim=True) + h,
    "a mask of its dtype": lambda h: h * (torch.arange(8) > 3).to(h) + torch.ones(8).type_as(h),
    "shapes": lambda h: h * h.shape[-1] ** -0.5,
    "a table by positions": lambda h: h * torch.arange(h.shape[-1]).cos(),
    "lerp": lambda h: torch.lerp(h, h.flip(-1), 0.5).contiguous().float(),
    "in place": lambda h: h.mul_(0.5).add_(h.sum(-1, keepdim=True)),
    "a decision": lambda h: h if bool(h.isfinite().all()) else 0 * h,
    "a loss": lambda h: nn.functional.mse_loss(h, torch.zeros(4, 8)),
}
PARAMETER = torch.linspace(0.5, 1.0, 8)


@torch.no_grad()
@pytest.mark.parametrize("name", CONSTANT)
def test_what_is_affine_in_the_activations_is_left_as_it_is(name):
    model, x = Computing(CONSTANT[name]).eval(), torch.randn(4, 8)
    network = apply(model, x, steps=12)
    torch.testing.assert_close(network(x), model(x), rtol=0, atol=0.02)


class DoublingRMSNorm(nn.RMSNorm):
    def forward(self, x):
        return 2 * super().forward(x)


@dataclass
class Answer:
    value: torch.Tensor


@pytest.mark.parametrize(
    "answer",
    [lambda h, y: (h, y), lambda h, y: {"h": h, "y": [y]}, lambda h, y: Answer(y)],
    ids=["second of two", "within a dict", "within a dataclass"],
)
def test_every_tensor_that_a_model_answers_with_is_compared(answer):
    class Answering(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(8, 8), DoublingRMSNorm(8)

        def forward(self, x):
            h = self.layer(x)
            return answer(h, self.norm(h))

    with pytest.raises(ValueError, match=r"output computes something else, by 5\.0e-01"):
        apply(Answering(), torch.randn(4, 8))


def test_a_part_that_vanishes_into_a_larger_layer_does_not_stop_the_comparison():
    class Longer(nn.TransformerEncoderLayer):
        def __init__(self):
            super().__init__(8, 2, 16, batch_first=True)
            self.more = nn.ModuleList([nn.Linear(8, 8)])

        def forward(self, x, *masks, **named):
            return self.more[0](super().forward(x, *masks, **named))

    with pytest.raises(ValueError, match="output computes something else"):
        apply(nn.Sequential(Longer()), torch.randn(2, 5, 8))


def test_a_model_that_yields_nan_itself_is_refused():
    class Dividing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return self.layer(x) / torch.zeros(())

    with pytest.raises(ValueError, match="output of the model itself is NaN or infinite"):
        apply(Dividing(), torch.randn(2, 8))
