"""`make demo`, in a hurry."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What a short run of the demo printed, and where its files lie."""
    output = tmp_path_factory.mktemp("demo")
    command = [sys.executable, ROOT / "examples" / "demo.py", "--quick", "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, output


def test_it_learns_something_in_every_framework(demo):
    for result in report(demo):
        assert result["accuracy_by_epoch"][-1] > 0.8


def test_no_spike_changes_with_the_framework_s_own_neuron_or_in_a_file(demo):
    for result in report(demo):
        assert result["spikes"] == 8 * 450 * 10
        assert result["spikes_differing_own"] == 0
        assert set(result["spikes_differing_read_by"].values()) == {0}
        assert set(result["spikes_differing_read_by"]) == {
            "spikeloom",
            "SpikingJelly",
            "snnTorch",
            "Norse",
        }


def test_it_keeps_its_input_and_little_else(demo):
    for result in report(demo):
        assert 1.0 <= result["kept_ours"] < 1.001
        assert result["kept_own"] > 1.5


def test_it_shows_tables_and_draws_pictures(demo):
    printed, output = demo
    for framework in ("SpikingJelly", "snnTorch", "Norse"):
        assert framework in printed
    for picture in ("training.png", "spikes.png"):
        assert (output / picture).read_bytes().startswith(b"\x89PNG")


def report(demo):
    return json.loads((demo[1] / "report.json").read_text())["results"]
