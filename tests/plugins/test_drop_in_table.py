"""The documentation's table of drop-ins names what there is."""

import importlib
import re
from pathlib import Path

import pytest

from spikeloom import plugins
from spikeloom.modules import registry
from tests.examples.markdown import python_blocks

PAGE = (Path(__file__).parents[2] / "docs" / "drop_ins.md").read_text("utf-8")
ROWS = {
    tuple(cells[0].strip("`").split(".")): cells
    for cells in ([c.strip() for c in row.strip("|").split("|")] for row in PAGE.splitlines())
    if len(cells) == 4 and cells[0].startswith("`")
}


def described(host):
    importlib.import_module(f"spikeloom.plugins.{host}")
    return {
        cls.__name__: conventions.written
        for cls, conventions in registry._conventions.items()
        if cls.__module__.startswith(f"{host}.")
        and conventions.describe is not registry.undescribed
    }


@pytest.mark.parametrize("host", ["spikingjelly", "snntorch", "norse"])
def test_the_table_names_every_class_that_has_a_description(host):
    rows = {name: row for (home, name), row in ROWS.items() if home == host}
    classes = described(host)
    assert rows.keys() == classes.keys()
    for name, row in rows.items():
        assert (row[3] != "-") == classes[name], name
        for ours in re.findall(r"`(\w+)`", row[1]):
            assert hasattr(getattr(plugins, host), ours)


def test_the_pages_code_runs():
    blocks = python_blocks(Path(__file__).parents[2] / "docs" / "drop_ins.md")
    assert blocks
    for block in blocks:
        exec(compile(block.code, "drop_ins.md", "exec"), {})
