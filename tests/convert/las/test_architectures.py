"""Models of transformers that no rule of ours names convert, whatever their forwards call."""

import os

import pytest
import torch

from spikeloom import convert
from spikeloom.convert import LAS, set_form

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("transformers")

from tests.convert.las.architectures import ARCHITECTURES, answer, batch, build
from tests.convert.las.families import relative

# A state that is fed back at every token adds up the errors of all.
BOUNDS = {"mamba": 0.03}
SAVED = ("bloom", "gemma2", "llava", "mixtral", "modernbert", "t5")


def converted(name, steps):
    model = build(name)
    calibration = [batch(name, seed) for seed in (0, 1)]
    return model, LAS(steps=steps, progress=False).apply(model, calibration)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*saturate:UserWarning")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_computes_nearly_the_same_by_spikes(name, tmp_path):
    model, network = converted(name, 8)
    unseen = batch(name, 7)
    wanted, found = answer(model(**unseen)), answer(network(**unseen))
    assert 0 < relative(found, wanted) < BOUNDS.get(name, 0.02)
    if name in SAVED:
        network.save_pretrained(tmp_path, save_original_format=False)
        again = convert.load_las(tmp_path, type(model))
        assert torch.equal(answer(again(**unseen)), found)
    set_form(network, "spikes")
    assert relative(answer(network(**unseen)), found) < 0.01


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*saturate:UserWarning")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_error_falls_with_the_steps(name):
    model, network = converted(name, 12)
    unseen = batch(name, 7)
    error = relative(answer(network(**unseen)), answer(model(**unseen)))
    assert 0 < error < (0.01 if name in BOUNDS else 0.002)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_what_chooses_experts_stays_in_float_and_is_said_to_be(name):
    _, network = converted(name, 8)
    (note,) = [note for note in network.report.notes if note.startswith("decide in float")]
    assert "model.layers.0.mlp.gate" in note
