"""What the pages say: their Python runs, prints what they show, and names what exists."""

import importlib
import re
from pathlib import Path

import pytest

import spikeloom
from tests.examples.markdown import python_blocks

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
RUNNING = [ROOT / "README.md", DOCS / "choose.md", DOCS / "extend.md", DOCS / "kernel.md"]
NAMED = re.compile(
    r"`(?:spikeloom\.)?((?:neurons|plugins|kernel|models|convert|compress|verify|export)\.[\w.]+)"
)


def name(page):
    return page.name


@pytest.mark.parametrize("page", RUNNING, ids=name)
def test_the_python_of_a_page_runs_and_prints_what_it_shows(page, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for block in python_blocks(page):
        # Line numbers of the page, so that a traceback points there.
        exec(compile("\n" * (block.line - 1) + block.code, page, "exec"), namespace)
        printed = capsys.readouterr().out
        assert block.printed is None or printed == block.printed


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_names_only_what_exists(page):
    for dotted in NAMED.findall(page.read_text(encoding="utf-8")):
        if dotted.endswith((".py", ".md")):
            continue
        found = spikeloom
        for part in dotted.rstrip(".").split("."):
            module = f"{getattr(found, '__name__', '')}.{part}"
            found = (
                getattr(found, part) if hasattr(found, part) else importlib.import_module(module)
            )
