"""The parts of the language model example, on a small LLaMA."""

import importlib
import os
from pathlib import Path

import pytest
import torch

from spikeloom.convert import LAS

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def part(monkeypatch):
    """A module of the example."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return lambda name: importlib.import_module(f"language_model.{name}")


@pytest.fixture(scope="module")
def texts():
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(5, 50, (1, 24), generator=draw) for _ in range(3)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=50, max_position_embeddings=128, initializer_range=0.3,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def test_a_model_is_as_near_to_itself_as_can_be(part, model, texts):
    reference = part("reference").Reference(model, texts, [texts[0][:, :8]])
    near = reference.nearness(model)
    assert near[0] == 3 * 24 and near[2:] == (0.0, 0.0, 1.0, 1.0)
    with torch.no_grad():
        losses = [float(model(input_ids=ids, labels=ids).loss) for ids in texts]
    assert near.perplexity == pytest.approx(torch.tensor(losses).mean().exp().item(), rel=1e-5)
    assert reference.nearness(model, 2).tokens == 2 * 24


@pytest.mark.filterwarnings("ignore:.*saturate:UserWarning")  # published ranges know no model
def test_published_ranges_and_tables_lose_more_than_calibrated_ones(part, model, texts):
    published = part("published")
    reference = part("reference").Reference(model, texts, [])

    def distance(change, **settings):
        recipe = LAS(steps=16, progress=False, **settings)
        network = change(recipe.apply(model, [{"input_ids": ids} for ids in texts]))
        with torch.no_grad():
            found, wanted = (of(input_ids=texts[0]).logits for of in (network, model))
        assert reference.nearness(network).next_token > 0.9
        return float((found - wanted).norm() / wanted.norm())

    two = {"ranges": 2, "headroom": 1.0}
    calibrated = distance(lambda network: network, **two)
    ranges = distance(published.with_published_ranges, **two)
    tables = distance(published.with_published_tables, **two)
    assert 0 < calibrated < min(ranges, tables)


@torch.no_grad()
def test_a_llama_is_a_qwen2_and_spikingjelly_s_recipe_takes_it(part, model, texts):
    pytest.importorskip("spikingjelly")
    others = part("others")
    assert torch.equal(others.as_qwen2(model)(texts[0]).logits, model(texts[0]).logits)
    network = others.by_spikingjelly(model, 32, texts)
    found, again = (network(input_ids=texts[0]).logits for _ in range(2))
    assert torch.equal(found, again)
    wanted = model(texts[0]).logits
    assert 1e-3 < (found - wanted).norm() / wanted.norm() < 0.5
    assert set(others.refused_by_spikingjelly(model, texts)) == {
        *("rate coding", "local threshold balancing", "STA", "TD equivalent"),
    }


@torch.no_grad()
def test_rounded_inputs_come_nearer_with_every_bit(part, model, texts):
    wanted, errors = model(texts[0]).logits, []
    for bits in (4, 8, 12):
        with part("others").rounded(model, bits, texts) as network:
            errors.append(float((network(texts[0]).logits - wanted).norm()))
    assert errors[0] > 8 * errors[1] > 64 * errors[2] > 0
    assert torch.equal(model(texts[0]).logits, wanted)


def test_an_interrupted_table_goes_on_from_its_file(part, model, texts, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module("las_language_model")
    reference = part("reference").Reference(model, texts, [])
    path = tmp_path / "table.json"
    first = example.Comparison(path, model, reference, texts)
    first.row(8, "rounded inputs", first.rounded)
    again = example.Comparison(path, model, reference, texts)

    def measured_twice(steps):
        raise AssertionError

    again.row(8, "rounded inputs", measured_twice)
    again.row(8, "LAS", again.las)
    assert [tuple(row[:2]) for row in again.report.rows] == [(8, "rounded inputs"), (8, "LAS")]
    assert again.report.rows[0] == first.report.rows[0]
    assert 0 < again.report.rows[1][-1] < 1
