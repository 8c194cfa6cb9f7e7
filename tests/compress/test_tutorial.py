"""The tutorial's Python runs and prints what it shows; the example and the benchmark run."""

import runpy
from pathlib import Path

import pytest
import torch

from tests.examples.markdown import python_blocks

ROOT = Path(__file__).parents[2]


def test_the_tutorial_runs_and_prints_what_it_shows(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for block in python_blocks(ROOT / "docs" / "tutorials" / "osbc.md"):
        exec(compile("\n" * (block.line - 1) + block.code, "osbc.md", "exec"), namespace)
        printed = capsys.readouterr().out
        assert block.printed is None or printed == block.printed


# After one epoch some layers are silent.
@pytest.mark.filterwarnings("ignore:prune. the inputs of .* never fired")
@pytest.mark.parametrize(
    "host",
    [
        "spikingjelly",
        pytest.param("snntorch", marks=pytest.mark.slow),
        pytest.param("norse", marks=pytest.mark.slow),
    ],
)
def test_the_example_runs_in_every_host(host, capsys, monkeypatch):
    arguments = ["osbc_digits.py", "--host", host, "--epochs", "1"]
    monkeypatch.setattr("sys.argv", arguments)
    runpy.run_path(str(ROOT / "examples" / "osbc_digits.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert f"{host}, mlp, latency code" in printed and "magnitude" in printed


def test_the_benchmark_runs(capsys, monkeypatch):
    arguments = ["osbc.py", "layer", "--inputs", "64", "--outputs", "3", "--rows", "3"]
    monkeypatch.setattr("sys.argv", [*arguments, "--threads", str(torch.get_num_threads())])
    runpy.run_path(str(ROOT / "examples" / "benchmarks" / "osbc.py"), run_name="__main__")
    assert "same mask as the plain loop on those rows: yes" in capsys.readouterr().out
