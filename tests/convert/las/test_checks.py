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
