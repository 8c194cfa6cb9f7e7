"""The reference: every public name has a page, and no formula needs a script."""

import importlib
import re
import runpy
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[1] / "docs"
API = runpy.run_path(str(DOCS / "extensions" / "api.py"))
PUBLIC = (
    *("spikeloom", "spikeloom.neurons", "spikeloom.nn", "spikeloom.observe", "spikeloom.models"),
    *("spikeloom.convert", "spikeloom.compress", "spikeloom.verify", "spikeloom.export"),
    *("spikeloom.plugins", "spikeloom.plugins.norse", "spikeloom.plugins.snntorch"),
    *("spikeloom.plugins.spikingjelly", "spikeloom.modules", "spikeloom.calibrate"),
)


def listed():
    """Every object that a table of the reference lists."""
    for page in (DOCS / "api").glob("*.rst"):
        for module, names in API["USE"].findall(page.read_text("utf-8")):
            yield from API["public"](module, names.split()).values()


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_in_a_table(module):
    found = [id(value) for value in listed()]
    package = importlib.import_module(module)
    for name in package.__all__:
        value = getattr(package, name)
        assert isinstance(value, ModuleType) or id(value) in found, f"{module}.{name}"


def test_a_page_says_what_kind_of_thing_it_describes():
    from spikeloom import export, neurons, run

    assert ".. autoclass:: LIF\n" in API["page"]("spikeloom.neurons.LIF", neurons.LIF, "")
    assert ".. autofunction:: run\n" in API["page"]("spikeloom.run", run, "")
    assert "``portable``" in API["page"]("spikeloom.export.PROFILES", export.PROFILES, "")
    refusal = API["page"]("spikeloom.export.NotExpressible", export.NotExpressible, "")
    assert ".. autoexception:: NotExpressible\n" in refusal


def test_every_formula_of_the_docstrings_is_mathml():
    tex2mathml = pytest.importorskip("docutils.utils.math.latex2mathml").tex2mathml
    pattern = re.compile(r":math:`([^`]+)`")
    roots = (DOCS.parent / "src", DOCS.parent / "plugins")
    found = [
        formula
        for root in roots
        for path in root.rglob("*.py")
        for formula in pattern.findall(path.read_text("utf-8"))
    ]
    assert len(found) > 50
    for formula in found:
        assert "<math" in tex2mathml(formula)
