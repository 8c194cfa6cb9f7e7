"""The tutorial of the spiking MLP runs as written, and shows what it says."""

from pathlib import Path

import pytest
import torch

from tests.examples.markdown import python_blocks

PAGE = Path(__file__).parents[3] / "docs" / "tutorials" / "spiking_mlp.md"


def test_the_tutorial_runs_as_written(capsys, monkeypatch, tmp_path):
    for package in ("sklearn", "spikingjelly", "norse", "nir", "matplotlib"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in python_blocks(PAGE):
        exec(compile("\n" * (block.line - 1) + block.code, PAGE, "exec"), names)
    assert names["y"].shape == (4, 2, 10)
    assert names["right"].float().mean() > 0.8 and "% right" in capsys.readouterr().out
    assert (names["proof"].ok, names["proof"].violations) == (True, [])
    assert {path.name for path in tmp_path.iterdir()} == {"energy.json", "energy.png"}
    with torch.no_grad():
        still, folded = names["still"], names["folded"]
        found = names["export"].run_nir(names["graph"], still)
        assert torch.allclose(found, folded(still), atol=1e-4)
