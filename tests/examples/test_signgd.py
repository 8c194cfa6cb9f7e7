"""The signGD tutorial and its example run as written."""

import runpy
import sys
from pathlib import Path

import pytest

from tests.examples.markdown import python_blocks

ROOT = Path(__file__).parents[2]


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
    monkeypatch.setattr(sys, "argv", [*arguments, "--plot", str(picture)])
    runpy.run_path(str(ROOT / "examples" / "signgd_digits.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert all(method in shown for method in ("fitted", "published", "rate coding"))
    assert picture.stat().st_size > 0
