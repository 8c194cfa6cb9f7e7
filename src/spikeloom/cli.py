"""The command ``spikeloom``: ask what works here, read what is generated.

It uses the standard library alone, because it is what one runs when something is missing.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikeloom.kernel.neuron import Neuron


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows ``spikeloom``; None takes them from the process.

    Returns:
        The exit status.
    """
    try:
        try:
            return _answer(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; nothing is left for Python to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _answer(arguments: Sequence[str] | None) -> int:
    """Print what is asked for; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        output = options.run(options)
    except (ValueError, TypeError, ImportError) as error:
        sys.stderr.write(f"spikeloom: {error}\n")
        return 2
    sys.stdout.write(output + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spikeloom", description=__doc__)
    version = f"spikeloom {metadata.version('spikeloom')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="command")
    doctor = commands.add_parser("doctor", help="versions, hosts, and what runs on each device")
    doctor.add_argument("--json", action="store_true", help="print JSON, for a bug report")
    doctor.set_defaults(run=_doctor)
    source = commands.add_parser("source", help="the kernel generated for a neuron")
    source.add_argument("neuron", help="a class of spikeloom.neurons, such as Leaky")
    source.add_argument(
        "arguments", nargs="*", help="its arguments as name=value, such as beta=0.9"
    )
    source.add_argument("--target", choices=("cuda", "llvm"), default="cuda")
    source.add_argument("--direction", choices=("forward", "backward"), default="forward")
    source.add_argument("--dtype", default="float32", help="of inputs and outputs")
    source.set_defaults(run=_source)
    return parser


def _doctor(options: argparse.Namespace) -> str:
    from spikeloom.diagnosis import doctor

    report = doctor()
    return report.to_json() if options.json else str(report)


def _source(options: argparse.Namespace) -> str:
    from spikeloom.kernel.source import source

    neuron = _neuron(options.neuron, options.arguments)
    return source(neuron, options.target, options.direction, options.dtype)


def _neuron(name: str, arguments: Sequence[str]) -> Neuron:
    """A neuron by its class's name and arguments such as ``beta=0.9``."""
    from spikeloom import neurons
    from spikeloom.kernel.neuron import Neuron

    offered = {key: getattr(neurons, key) for key in neurons.__all__}
    classes = {
        key: c for key, c in offered.items() if isinstance(c, type) and issubclass(c, Neuron)
    }
    if name not in classes:
        raise ValueError(f"neuron: must be one of {', '.join(classes)}, got {name!r}")
    settings = dict(map(_setting, arguments))
    signature = inspect.signature(classes[name])
    try:
        signature.bind(**settings)
    except TypeError as error:
        known = ", ".join(signature.parameters)
        raise TypeError(f"{name}: {error}; give its arguments as name=value: {known}") from error
    return classes[name](**settings)


def _setting(argument: str) -> tuple[str, Any]:
    """Name and value of ``name=value``; a value that is no Python literal is a word."""
    name, equals, text = argument.partition("=")
    if not (equals and name.isidentifier()):
        raise ValueError(f"arguments: must have the form name=value, got {argument!r}")
    try:
        return name, ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return name, text


if __name__ == "__main__":
    sys.exit(main())
