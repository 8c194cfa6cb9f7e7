"""The directives ``file`` and ``command``: a page's files are written, and its commands run.

Both work in one folder for each page, in the order of the page, when the documentation is built.
"""

import contextlib
import shlex
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from typer.testing import CliRunner

WIDTH = 100


class Session:
    """The command line in a folder."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def write(self, name, text):
        """Write one of the page's files."""
        (self.folder / name).write_text(text + "\n", encoding="utf-8")

    def run(self, line, status=0):
        """What a command prints.

        Raises:
            ValueError: If it ends with another status.
        """
        from spikeloom_cli import app

        name, *arguments = shlex.split(line)
        assert name == "spikeloom", line
        runner = CliRunner(env={"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH)})
        path = [*sys.path]
        try:
            with contextlib.chdir(self.folder):
                done = runner.invoke(app, arguments)
        finally:
            sys.path[:] = path
            for module, loaded in list(sys.modules.items()):
                if str(getattr(loaded, "__file__", "")).startswith(str(self.folder)):
                    del sys.modules[module]
        if done.exit_code != status:
            raise ValueError(f"{line}: status {done.exit_code} instead of {status}: {done.output}")
        return done.stdout + (done.stderr if status else "")


def literal(text, language):
    """A block of code as it stands."""
    block = nodes.literal_block(text, text)
    block["language"] = language
    return block


class File(Directive):
    """A file of the session, shown as it is: its name is the argument."""

    required_arguments = 1
    has_content = True

    def run(self):
        text, (name,) = "\n".join(self.content), self.arguments
        session_of(self).write(name, text)
        return [literal(f"# {name}\n{text}", "python" if name.endswith(".py") else "text")]


class Command(Directive):
    """A command line and what it prints.

    ``:status:`` is the exit status that is expected, ``:lines:`` how many lines are shown.
    """

    has_content = True
    option_spec: ClassVar = {
        "status": directives.nonnegative_int,
        "lines": directives.nonnegative_int,
    }

    def run(self):
        line = " ".join(part.rstrip("\\").strip() for part in self.content)
        try:
            printed = session_of(self).run(line, self.options.get("status", 0))
        except ValueError as error:
            raise self.error(str(error)) from error
        found = [text.rstrip() for text in printed.strip("\n").splitlines()]
        most = self.options.get("lines", len(found))
        found = found[:most] + (["..."] if most < len(found) else [])
        return [literal("\n".join([f"$ {line}", *found]), "console")]


def session_of(directive):
    """The session of the page that a directive stands on."""
    environment = directive.state.document.settings.env
    folders = environment.app.spikeloom_folders
    if environment.docname not in folders:
        folders[environment.docname] = tempfile.TemporaryDirectory(prefix="spikeloom-docs-")
    return Session(folders[environment.docname].name)


def remove_folders(app, error):
    """Remove the folders of all pages."""
    for folder in app.spikeloom_folders.values():
        folder.cleanup()


def setup(app):
    """Register the directives with Sphinx."""
    app.spikeloom_folders = {}
    app.add_directive("file", File)
    app.add_directive("command", Command)
    app.connect("build-finished", remove_folders)
    return {"parallel_read_safe": False, "version": "1"}
