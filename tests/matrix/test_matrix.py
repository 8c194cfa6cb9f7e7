"""Small models times methods: each cell is right, or refused by naming the place."""

from pathlib import Path

import pytest

from tests.matrix.cells import METHODS, outcome
from tests.matrix.model import MODELS
from tests.matrix.page import write_matrix_page

PAGE = Path(__file__).parents[2] / "docs" / "matrix.md"


def cells():
    found = []
    for name, model in MODELS.items():
        for method in METHODS:
            fault = model.known.get(method)
            marks = [pytest.mark.xfail(reason=fault)] if fault else []
            found.append(pytest.param(name, method, marks=marks, id=f"{name}-{method}"))
    return found


@pytest.mark.parametrize(("name", "method"), cells())
def test_a_cell_is_right_or_refused_by_naming_the_place(name, method):
    model, found = MODELS[name], outcome(name, method)
    if method in model.refused:
        assert model.refused[method] in found.refusal, found.refusal or "was not refused"
    else:
        assert not found.refusal
    if method in model.warned:
        assert model.warned[method] in found.warning
    else:
        assert not found.warning


def test_the_page_is_current(tmp_path):
    write_matrix_page(tmp_path / "matrix.md")
    assert (tmp_path / "matrix.md").read_text("utf-8") == PAGE.read_text("utf-8"), (
        "run `python -m tests.matrix.page docs/matrix.md`"
    )


def test_there_are_models_enough():
    assert len(MODELS) >= 60
    for name, model in MODELS.items():
        methods = {*model.refused, *model.warned, *model.known}
        assert methods <= set(METHODS), name
        assert model.why.endswith("."), name
