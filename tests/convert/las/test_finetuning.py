"""Training a converted network brings back what few steps cost."""

import copy
import math
import os

import pytest
import torch

from spikeloom.convert import LAS

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("transformers")

from tests.convert.las.trained import loss, passages, train, trained

BATCHES, STEPS, RATE = (1, 4, 5), 100, 3e-4


@torch.no_grad()
def perplexity(model):
    return math.exp(sum(float(loss(model, passages(seed))) for seed in BATCHES) / len(BATCHES))


def trained_on(model):
    """A copy after some more steps."""
    return train(copy.deepcopy(model), STEPS, rate=RATE, first=5000)


@pytest.mark.slow
def test_training_a_converted_decoder_brings_back_most_of_what_four_steps_cost():
    model = trained("gptj")
    calibration = [{"input_ids": passages(seed)} for seed in (2, 3)]
    network = LAS(steps=4, progress=False).apply(model, calibration)
    before, after = perplexity(model), perplexity(trained_on(model))
    converted, tuned = perplexity(network), perplexity(trained_on(network))
    print(f"float {before:.3f} -> {after:.3f}, K = 4 {converted:.3f} -> {tuned:.3f}")
    assert converted > before + 0.003
    # The original trained on as well, so that what more training brings is not counted.
    assert tuned - after < (converted - before) / 2
    assert tuned < converted
