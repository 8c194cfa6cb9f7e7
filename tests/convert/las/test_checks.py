"""What no rule can convert is refused with its place and what it does, never left in silence."""

import os

import pytest
import torch
from torch import nn

from spikeloom.convert import LAS

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
    assert isinstance(network[1].qkv, nn.Linear)


def test_a_function_in_the_model_s_own_forward_is_named():
    with pytest.raises(TypeError, match=r"'', the model's own forward \(Inline\) calls gelu"):
        apply(Inline(), torch.randn(2, 8))
    network = apply(Inline(), torch.randn(2, 8), exclude=[""])
    assert not isinstance(network.layer, nn.Linear)


def test_many_places_are_counted():
    model = nn.Sequential(*(Inline() for _ in range(9)))
    with pytest.raises(TypeError, match=r"5 \(Inline\) calls gelu; and 3 more\. Use"):
        apply(model, torch.randn(2, 8))


def test_a_module_that_only_looks_like_one_with_a_rule_is_found():
    class DoublingRMSNorm(nn.RMSNorm):
        def forward(self, x):
            return 2 * super().forward(x)

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
