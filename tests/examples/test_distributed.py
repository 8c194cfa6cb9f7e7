"""The examples for several processes run under torchrun, as their first lines say."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "distributed"
pytestmark = pytest.mark.slow


def printed(folder, name, *arguments):
    """What an example prints that two processes run in a folder."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, "-m", f"examples.distributed.{name}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def number(text, name):
    """The number behind a name, which one process alone prints."""
    (found,) = re.findall(rf"{name} ([\d.]+)", text)
    return float(found)


def test_data_parallel_training_learns_digits(tmp_path):
    text = printed(tmp_path, "data_parallel", "--epochs", "3")
    assert number(text, "test accuracy") > 0.8
    assert (tmp_path / "digits.pt").exists()


def test_lightning_learns_saves_and_logs_the_energy(tmp_path):
    pytest.importorskip("lightning")
    text = printed(tmp_path, "with_lightning", "--epochs", "3")
    assert number(text, "test accuracy") > 0.7
    assert list(tmp_path.rglob("*.ckpt"))
    with open(next(tmp_path.rglob("metrics.csv")), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["additions"]) > float(rows[-1]["spikes"]) > 0


def test_accelerate_learns_digits(tmp_path):
    pytest.importorskip("accelerate")
    text = printed(tmp_path, "with_accelerate", "--epochs", "3")
    assert number(text, "test accuracy") > 0.8
    assert list((tmp_path / "accelerate").iterdir())


def test_spikelm_trains_and_goes_on_in_transformers_trainer(tmp_path):
    pytest.importorskip("transformers")
    first = printed(tmp_path, "spikelm_trainer", "--steps", "16")
    assert 2.0 < number(first, "training loss") < 5.0
    assert (tmp_path / "spikelm" / "checkpoint-8").is_dir()
    printed(tmp_path, "spikelm_trainer", "--steps", "20", "--resume")
    assert (tmp_path / "spikelm" / "checkpoint-20").is_dir()


def test_layers_are_calibrated_and_pruned_by_both(tmp_path):
    text = printed(tmp_path, "compression")
    assert "7104 of 9472 weights removed" in text


def test_every_example_says_how_it_is_run():
    for path in FOLDER.glob("[!_]*.py"):
        text = path.read_text(encoding="utf-8")
        if "def main" in text:
            line = f"torchrun --standalone --nproc-per-node 2 -m examples.distributed.{path.stem}"
            assert line in text, path
