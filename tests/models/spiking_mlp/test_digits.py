"""The digits example: it runs, and the network learns what it is said to learn."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import spikeloom
from spikeloom.verify import check_mfi, fold_norms

EXAMPLE = Path(__file__).parents[3] / "examples" / "spiking_mlp_digits.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("spiking_mlp_digits", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_example_runs_in_every_host(example, monkeypatch, tmp_path, capsys):
    arguments = ["--epochs", "1", "--seeds", "1", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["spiking_mlp_digits.py", *arguments])
    example.main()
    shown = capsys.readouterr().out
    assert "ANN twin: median" in shown
    assert "Multiplication free" in shown
    assert "NIR: 50 nodes" in shown
    names = {"digits.nir", "energy.json", "energy.png", "mfi.json", "runs.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


@pytest.mark.slow
def test_digits_are_learnt_and_the_trained_network_is_multiplication_free(example):
    training, test = example.digits()
    torch.manual_seed(0)
    model = example.network(spikeloom.SpikingLayer)
    example.train(model, training, 20, 0, lambda model: None)
    assert example.accuracy(model, test, lambda model: None) >= 97.0
    folded = fold_norms(model)
    assert example.accuracy(folded, test, lambda model: None) >= 97.0
    assert check_mfi(folded, test[0][:8]).ok
