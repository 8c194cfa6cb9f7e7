"""The pages for users of each framework: their code runs, and the names they give are there."""

import re
from pathlib import Path

import pytest

from spikeloom import plugins
from tests.examples.markdown import python_blocks

PAGES = sorted((Path(__file__).parents[2] / "docs" / "hosts").glob("*.md"))


def test_every_framework_has_a_page():
    assert {page.stem for page in PAGES} == {*plugins.HOSTS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page):
    for block in python_blocks(page):
        exec(compile(block.code, str(page), "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_is_there(page):
    host = getattr(plugins, page.stem)
    for name in re.findall(r"\bloom\.(\w+)", page.read_text("utf-8")):
        assert hasattr(host, name), name
