"""Networks, compressed, and what follows: each cell is right, or refused with the reason."""

from pathlib import Path

import pytest

from tests.compositions.cells import CELLS, outcome
from tests.compositions.page import write_compositions_page
from tests.compositions.subject import SUBJECTS

PAGE = Path(__file__).parents[2] / "docs" / "compositions.md"


def listed(cell):
    marks = [pytest.mark.slow] if cell.end == "compile" else []
    return pytest.param(cell, marks=marks, id=f"{cell.subject}-{cell.how}-{cell.end}")


@pytest.mark.parametrize("cell", [listed(cell) for cell in CELLS])
def test_a_composition_is_right_or_refused_with_the_reason(cell):
    subject, found = SUBJECTS[cell.subject], outcome(cell)
    refused, warned = cell.of(subject.refused), cell.of(subject.warned)
    if refused:
        assert refused in found.refusal, found.refusal or "was not refused"
    else:
        assert not found.refusal
    if warned:
        assert warned in found.warning
    else:
        assert not found.warning


@pytest.mark.slow
def test_the_page_is_current(tmp_path):
    write_compositions_page(tmp_path / "compositions.md")
    assert (tmp_path / "compositions.md").read_text("utf-8") == PAGE.read_text("utf-8"), (
        "run `python -m tests.compositions.page docs/compositions.md`"
    )
