"""The documentation states what the code does."""

import runpy
from pathlib import Path

from spikeloom.export import PROFILES

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def test_the_page_is_current(tmp_path):
    script = runpy.run_path(str(PAGE.with_name("export_page.py")))
    script["write_export_page"](tmp_path / "export.md")
    assert (tmp_path / "export.md").read_text("utf-8") == PAGE.read_text("utf-8"), (
        "run `python docs/export_page.py`"
    )


def test_the_page_names_every_target_and_the_main_verdicts():
    page = PAGE.read_text("utf-8")
    for target in PROFILES:
        assert f"`{target}`" in page
    rows = {row.split(" | ")[0][2:]: row for row in page.splitlines() if row.startswith("| ")}
    assert rows["LIF, hard reset"].startswith(
        "| LIF, hard reset | `LIF` | exact | exact | exact | exact | exact |"
    )
    assert "subgraph" in rows["LIF, soft reset"]
    assert rows["OAT, 4 spikes, two ranges"].count("subgraph") == 2
    assert rows["SignGD, ReLU, shrinking steps"].count("subgraph") == 2
    assert rows["SignGD, GELU"].count("extension") == 2
