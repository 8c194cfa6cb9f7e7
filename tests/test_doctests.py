"""The examples in the docstrings of src/ and plugins/ run as written."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {"spikeloom": ROOT / "src" / "spikeloom", "spikeloom.plugins": ROOT / "plugins"}


def modules_with_examples():
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            if ">>>" in path.read_text(encoding="utf-8"):
                parts = path.relative_to(folder).with_suffix("").parts
                yield ".".join([package, *(part for part in parts if part != "__init__")])


@pytest.mark.parametrize("name", list(modules_with_examples()))
def test_docstring_examples(name):
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    results = doctest.testmod(importlib.import_module(name), optionflags=options)
    assert results.failed == 0, f"{results.failed} of {results.attempted} examples, printed above"
