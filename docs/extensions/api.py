"""The directive ``api``: a module's public names as a table, and a page for each of them.

``.. api:: spikeloom.neurons`` takes the names from the module's ``__all__``, or from its option
``:names:``, so that no page has to be changed when a name is added. A name that an earlier module
has already is linked to the page that it has there.
"""

import importlib
import inspect
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

USE = re.compile(r"^\.\. api:: (\S+)\n(?:   :names: (.+)\n)?", re.M)
GENERATED = "generated"
CONTAINERS = (Mapping, list, tuple, set, frozenset)


def public(module, names):
    """Name -> object: what a module offers, without other modules."""
    found = importlib.import_module(module)
    names = names or found.__all__
    every = {name: getattr(found, name) for name in sorted(names, key=str.lower)}
    return {name: value for name, value in every.items() if not isinstance(value, ModuleType)}


class Homes:
    """Where every public object has its page."""

    def __init__(self):
        self._known = []

    def of(self, module, name, value):
        """The full name of a page: that of the first module which offers the object."""
        for other, home in self._known:
            if other is value and home.rpartition(".")[2] == name:
                return home
        self._known.append((value, f"{module}.{name}"))
        return f"{module}.{name}"


def page(home, value, excluded):
    """The page of one object; ``excluded`` are members that its docstring describes."""
    module, _, name = home.rpartition(".")
    lines = [name, "=" * len(name), "", f".. currentmodule:: {module}", ""]
    if inspect.isclass(value):
        kind = "exception" if issubclass(value, BaseException) else "class"
        lines += [f".. auto{kind}:: {name}"]
        lines += [f"   :exclude-members: {excluded}"] if excluded else []
    elif inspect.isroutine(value):
        lines += [f".. autofunction:: {name}"]
    elif isinstance(value, CONTAINERS):
        keys = ", ".join(f"``{getattr(key, '__name__', key)}``" for key in value)
        lines += [f".. py:data:: {name}", "", f"   {type(value).__name__} of {keys}"]
    else:
        lines += [f".. autodata:: {name}"]
    return "\n".join(lines) + "\n"


def write_pages(app):
    """Write the pages of all names, before Sphinx looks for its sources."""
    folder = Path(app.srcdir, "api")
    pages = {}
    for name in app.config.api_pages:
        for module, listed in USE.findall((folder / f"{name}.rst").read_text("utf-8")):
            for item, value in public(module, listed.split()).items():
                home = app.spikeloom_homes.of(module, item, value)
                pages[home] = page(home, value, app.config.api_excluded.get(home, ""))
    generated = folder / GENERATED
    for path in generated.glob("*.rst"):
        if path.stem not in pages:
            path.unlink()
    generated.mkdir(exist_ok=True)
    for home, text in pages.items():
        path = generated / f"{home}.rst"
        # A page that stays as it is need not be read again.
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, encoding="utf-8")


class Api(SphinxDirective):
    """The table of a module's names."""

    required_arguments = 1
    option_spec: ClassVar = {"names": directives.unchanged}

    def run(self):
        """A table by autosummary, and the pages behind it."""
        (module,) = self.arguments
        names = self.options.get("names", "").split()
        found = public(module, names)
        homes = [
            self.env.app.spikeloom_homes.of(module, name, value) for name, value in found.items()
        ]
        # A container's own docstring is that of its type.
        constants = [name for name, value in found.items() if isinstance(value, CONTAINERS)]
        entries = [f"   ~{home}" for home in homes if home.rpartition(".")[2] not in constants]
        own = [f"   {GENERATED}/{home}" for home in homes if home.startswith(f"{module}.")]
        lines = [
            ".. py:currentmodule:: None",
            "",
            ".. autosummary::",
            "   :nosignatures:",
            "",
            *entries,
            "",
        ]
        lines += [".. toctree::", "   :hidden:", "", *own, ""]
        block = nodes.container()
        self.state.nested_parse(StringList(lines, source=self.env.docname), 0, block)
        return block.children


def remove_pages(app, error):
    """Leave nothing but sources in the folder of the sources."""
    shutil.rmtree(Path(app.srcdir, "api", GENERATED), ignore_errors=True)


def setup(app):
    """Register the directive with Sphinx."""
    app.spikeloom_homes = Homes()
    app.add_config_value("api_pages", [], "env")
    app.add_config_value("api_excluded", {}, "env")
    app.add_directive("api", Api)
    app.connect("builder-inited", write_pages, priority=100)
    app.connect("build-finished", remove_pages)
    return {"parallel_read_safe": False, "version": "1"}
