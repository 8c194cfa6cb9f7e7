"""The numbered introductions run."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
INTRODUCTIONS = sorted(EXAMPLES.glob("[0-9]_*.py"))


@pytest.mark.parametrize("path", INTRODUCTIONS, ids=lambda path: path.stem)
def test_an_introduction_runs_and_shows_something(path, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_introductions_are_numbered_without_gaps():
    assert [int(path.name[0]) for path in INTRODUCTIONS] == list(range(1, len(INTRODUCTIONS) + 1))
