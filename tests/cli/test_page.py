"""The page of the documentation: its commands run as they are printed."""

import re
import runpy
from pathlib import Path

import pytest

from spikeloom_cli.app import COMMANDS

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```\{(file|command)\} ?([^\n]*)\n((?::[^\n]*\n)*)(.*?)^```$", re.M | re.S)


@pytest.mark.slow  # the documentation's build runs them as well
def test_every_command_of_the_page_ends_as_the_page_says(tmp_path):
    page = (DOCS / "command_line.md").read_text("utf-8")
    session = runpy.run_path(str(DOCS / "extensions" / "session.py"))["Session"](tmp_path)
    seen = set()
    for kind, name, options, text in BLOCK.findall(page):
        if kind == "file":
            session.write(name, text)
            continue
        status = re.search(r":status: (\d)", options)
        assert session.run(text.strip(), int(status[1]) if status else 0)
        seen.add(text.split()[1])
    assert {command.__name__ for command in COMMANDS} <= seen
