"""The code blocks of a Markdown page."""

import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

FENCED = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+/\S+\.py)\n")


@dataclass(frozen=True)
class Block:
    """A block of Python.

    Attributes:
        code: Its text.
        line: Where it begins in the page.
        path: The file it belongs to, if its first line is a comment that names one.
        printed: What it prints, if a block of text follows at once.
    """

    code: str
    line: int
    path: str | None
    printed: str | None


def python_blocks(page: Path) -> list[Block]:
    """Every block of Python in a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = list(FENCED.finditer(text))
    blocks = []
    for match, following in zip_longest(found, found[1:]):
        language, code = match.groups()
        if language != "python":
            continue
        named = FILE.match(code)
        printed = None
        if (
            following
            and following[1] == "text"
            and not text[match.end() : following.start()].strip()
        ):
            printed = following[2]
        line = text.count("\n", 0, match.start()) + 2
        blocks.append(Block(code, line, named[1] if named else None, printed))
    return blocks
