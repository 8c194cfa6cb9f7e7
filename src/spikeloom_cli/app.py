"""The application: its commands, and how their errors are shown."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from spikeloom_cli.bench import bench
from spikeloom_cli.compare import compare
from spikeloom_cli.compress import compress
from spikeloom_cli.convert import convert
from spikeloom_cli.demo import demo
from spikeloom_cli.doctor import doctor
from spikeloom_cli.export import export
from spikeloom_cli.inspect import inspect
from spikeloom_cli.source import source
from spikeloom_cli.verify import verify

__all__ = ["app", "main"]

COMMANDS = (
    *(doctor, demo, bench, source),
    *(convert, compress, verify, export),
    *(inspect, compare),
)
# The status of a usage error or of work that could not be done; 1 is the answer "no".
FAILED = 2


class _Commands(TyperGroup):
    """The commands; an error is one line, and the exit status is 0, 1 or 2."""

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run a command and end the process."""
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = self._status(*args, **{**settings, "standalone_mode": False})
        sys.exit(status)

    def _status(self, args: Sequence[str] | None = None, *more: Any, **settings: Any) -> int:
        try:
            status = super().main(args, *more, **settings)
            sys.stdout.flush()
        except SystemExit as end:
            if not isinstance(end.__context__, BrokenPipeError):
                raise
            return _seen_enough()
        except BrokenPipeError:
            return _seen_enough()
        except Exception as error:
            if "--traceback" in (sys.argv if args is None else args):
                traceback.print_exc()
            typer.echo(f"spikeloom: {_described(error)}", err=True)
            return FAILED
        return status if isinstance(status, int) else 0


def _seen_enough() -> int:
    """The reader, such as ``head``, has closed the pipe; nothing is left for Python to flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]  # a process's own
    return 0


def _described(error: Exception) -> str:
    """An error in words; the kind of error where its message alone would not be understood."""
    if callable(message := getattr(error, "format_message", None)):
        command = getattr(getattr(error, "ctx", None), "command_path", "spikeloom")
        return f"{str(message()).rstrip('.')}; see `{command} --help`"
    if isinstance(error, (ValueError, TypeError, ImportError, OSError, NotImplementedError)):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}"


app = typer.Typer(
    name="spikeloom",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in COMMANDS:
    app.command()(_command)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"spikeloom {metadata.version('spikeloom')}")
        raise typer.Exit


@app.callback()
def _spikeloom(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    shows_traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where in the code an error was raised.")
    ] = False,
) -> None:
    """Convert, compress, verify and exchange spiking networks.

    Exit status: 0 when the work is done; 1 when the answer is no, such as two networks that differ
    or a network that cannot be exported; 2 when a command is wrong or could not do its work.
    """


def _show_warning(message: Warning | str, *place: Any, **more: Any) -> None:
    """A warning as one line, without the line of code that gave it."""
    typer.echo(f"spikeloom: warning: {message}", err=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows ``spikeloom``; None takes them from the process.

    Returns:
        The exit status.
    """
    try:
        app(arguments, prog_name="spikeloom")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0
