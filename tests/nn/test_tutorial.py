"""The page on event-driven layers runs as written, and shows what it says."""

from pathlib import Path

import pytest

from spikeloom.nn.layer import SpikeFed
from spikeloom.nn.saved import _enter
from tests.examples.markdown import python_blocks

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "events.md"


@pytest.mark.slow
def test_the_tutorial_runs_as_written(capsys):
    pytest.importorskip("sklearn")
    names = {"__name__": "page"}
    for block in python_blocks(PAGE):
        exec(compile("\n" * (block.line - 1) + block.code, PAGE, "exec"), names)
        printed = capsys.readouterr().out
        if block.printed is not None:
            assert printed == block.printed
    rates = names["rates"]
    assert rates[-1] < 0.6 * rates[0]
    assert all(isinstance(names["net"][number], SpikeFed) for number in (0, 2, 4))
    assert _enter in names["plain"]._forward_pre_hooks.values()
