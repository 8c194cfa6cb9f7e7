"""The tutorial of compositions runs as written, and so does the example behind its tables."""

import json
import runpy
from pathlib import Path

import pytest

from tests.examples.markdown import python_blocks

ROOT = Path(__file__).parents[2]


def test_the_tutorial_runs_as_written():
    namespace = {"__name__": "page"}
    for block in python_blocks(ROOT / "docs" / "tutorials" / "compositions.md"):
        code = "\n" * (block.line - 1) + block.code
        exec(compile(code, "compositions.md", "exec"), namespace)


@pytest.mark.slow
def test_the_example_tells_every_stage_and_draws_a_picture(capsys, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    arguments = ["compositions_digits.py", "--epochs", "1", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    runpy.run_path(str(ROOT / "examples" / "compositions_digits.py"), run_name="__main__")
    assert "multiplication free: yes" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"compositions.png", "small.nir", "stages.json"}
    spiking, converted = json.loads((tmp_path / "stages.json").read_text("utf-8"))
    assert [row["stage"] for row in spiking["rows"]][1:3] == ["pruned to 90%", "fine-tuned"]
    assert converted["rows"][-1]["stage"] == "converted"
