"""Trained decoders go on writing the text that they know, by spikes."""

import os

import pytest
import torch

from spikeloom.convert import LAS, set_form

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("transformers")

from tests.convert.las.families import relative
from tests.convert.las.trained import KINDS, TEXT, encoded, loss, passages, trained

BEGINNINGS = ("A neuron waits. ", "Between two spikes ", "That is why a br")


def converted(model, steps):
    calibration = [{"input_ids": passages(seed)} for seed in (2, 3)]
    return LAS(steps=steps, progress=False).apply(model, calibration)


@pytest.fixture(scope="module", params=KINDS)
def decoders(request):
    """A trained decoder and its conversion with 16 steps."""
    model = trained(request.param)
    return model, converted(model, 16)


@pytest.fixture(scope="module")
def with_calls():
    """The decoder whose attention no rule knows, converted with 8 steps."""
    model = trained("gptj")
    return model, converted(model, 8)


def written(model, beginning, **settings):
    """What a model writes behind a beginning."""
    ids = encoded(beginning)
    torch.manual_seed(0)
    return model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, **settings
    )[0, ids.shape[1] :]


@torch.no_grad()
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_trained_decoder_writes_the_same_text_with_its_cache(beginning, decoders):
    model, network = decoders
    found = written(network, beginning, do_sample=False)
    assert torch.equal(found, written(model, beginning, do_sample=False))
    assert torch.equal(found, written(network, beginning, do_sample=False, use_cache=False))
    begin = TEXT.index(beginning) + len(beginning)
    known = encoded(TEXT[begin : begin + 32])[0]
    assert (found == known).float().mean() > 0.9  # it is text, and not one token again and again


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [{"num_beams": 3, "do_sample": False}, {"do_sample": True, "temperature": 0.7, "top_k": 5}],
    ids=["beam search", "sampling"],
)
def test_a_trained_decoder_searches_and_draws_as_the_original(settings, decoders):
    model, network = decoders
    found = written(network, BEGINNINGS[0], **settings)
    assert torch.equal(found, written(model, BEGINNINGS[0], **settings))


@torch.no_grad()
def test_a_trained_decoder_loses_nothing_at_16_steps(decoders):
    model, network = decoders
    wanted, found = float(loss(model, passages(1))), float(loss(network, passages(1)))
    assert 0 < abs(found - wanted) < 1e-3 * wanted


@torch.no_grad()
@pytest.mark.parametrize("steps, distance", [(6, 1.1e-4), (8, 8e-6)])
def test_a_trained_decoder_keeps_its_probabilities_at_few_steps(steps, distance):
    model = trained("llama")
    ids = passages(1)
    wanted, found = (
        of(input_ids=ids).logits.log_softmax(-1) for of in (model, converted(model, steps))
    )
    # How much the next characters' distributions differ: Kullback and Leibler's divergence.
    assert 0 < float((wanted.exp() * (wanted - found)).sum(-1).mean()) < distance
    assert (wanted.argmax(-1) == found.argmax(-1)).float().mean() > 0.99


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "steps, increase, agreement", [(6, 2e-2, 0), (8, 1e-3, 0.965), (10, 1e-3, 0.992)]
)
def test_a_trained_decoder_meets_the_bars_of_a_language_model(kind, steps, increase, agreement):
    model = trained(kind)
    network, ids = converted(model, steps), passages(99, rows=64)
    wanted, found = (of(input_ids=ids, labels=ids) for of in (model, network))
    assert 0 < abs(float((found.loss - wanted.loss).exp()) - 1) < increase
    same = found.logits.argmax(-1) == wanted.logits.argmax(-1)
    assert float(same.float().mean()) >= agreement


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_decoder_writes_the_same_text_at_ten_steps(kind):
    model = trained(kind)
    network = converted(model, 10)
    for beginning in BEGINNINGS:
        texts = [written(of, beginning, do_sample=False) for of in (network, model)]
        assert torch.equal(*texts)


@torch.no_grad()
@pytest.mark.parametrize("form", ["decoded", "spikes"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_of_a_model_with_calls_of_its_own_equal_single_ones(side, form, with_calls):
    _, network = with_calls
    set_form(network, form)
    lengths = (12, 5, 9)
    rows = [passages(7, 1, length) for length in lengths]
    ids = torch.zeros(3, 12, dtype=torch.long)
    mask = torch.zeros_like(ids)
    spans = [slice(0, n) if side == "right" else slice(12 - n, 12) for n in lengths]
    for number, (row, span) in enumerate(zip(rows, spans, strict=True)):
        ids[number, span], mask[number, span] = row[0], 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    batch = network(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    for number, (row, span) in enumerate(zip(rows, spans, strict=True)):
        alone = network(input_ids=row, attention_mask=torch.ones_like(row)).logits[0]
        assert relative(batch[number, span], alone) < 2e-3
    set_form(network, "decoded")


@torch.no_grad()
def test_a_left_padded_batch_is_continued_as_its_rows_alone(with_calls):
    _, network = with_calls
    beginnings = [encoded(text)[0] for text in BEGINNINGS]
    longest = max(map(len, beginnings))
    ids = torch.stack([torch.nn.functional.pad(b, (longest - len(b), 0)) for b in beginnings])
    together = network.generate(
        input_ids=ids, attention_mask=(ids > 0).long(), max_new_tokens=32, do_sample=False
    )
    for row, beginning in zip(together, BEGINNINGS, strict=True):
        assert torch.equal(row[longest:], written(network, beginning, do_sample=False))


@torch.no_grad()
def test_embeddings_may_be_given_instead_of_tokens(with_calls):
    _, network = with_calls
    ids = passages(7)
    embedded = network.get_input_embeddings()(ids)
    assert torch.equal(network(inputs_embeds=embedded).logits, network(input_ids=ids).logits)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_model_converts_the_same_whichever_attention_it_had(attention):
    torch.manual_seed(0)
    model = KINDS["llama"]().eval()
    expected = converted(model, 8)(input_ids=passages(7)).logits
    model.set_attn_implementation(attention)
    found = converted(model, 8)(input_ids=passages(7)).logits
    assert torch.equal(found, expected)
    assert model.config._attn_implementation == attention
