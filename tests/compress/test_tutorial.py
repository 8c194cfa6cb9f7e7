"""The tutorial's Python runs and prints what it shows; the example and the benchmark run."""

import json
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


def test_the_benchmark_finds_the_exact_effort_as_good_as_the_plain_loop(monkeypatch, tmp_path):
    arguments = ["osbc.py", "layer", "--inputs", "64", "--outputs", "1", "--rows", "1"]
    arguments += ["--turns", "1", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*arguments, "--threads", str(torch.get_num_threads())])
    runpy.run_path(str(ROOT / "examples" / "benchmarks" / "osbc.py"), run_name="__main__")
    (rows,) = json.loads((tmp_path / "osbc.json").read_text()).values()
    for share in ("50%", "90%"):
        exact, loop = (rows[f"{share} {name}"]["objective"] for name in ("exact", "plain loop"))
        assert exact == pytest.approx(loop, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("net", ["nmnist", "vgg11", "resnet18"])
def test_the_benchmark_of_whole_networks_runs(net, capsys, monkeypatch):
    arguments = ["osbc_networks.py", net, "--quick", "--threads", str(torch.get_num_threads())]
    monkeypatch.setattr("sys.argv", arguments)
    runpy.run_path(str(ROOT / "examples" / "benchmarks" / "osbc_networks.py"), run_name="__main__")
    assert "pruned to 90 %" in capsys.readouterr().out
