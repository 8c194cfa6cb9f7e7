"""The command ``spikeloom``: ask what works here, read what is generated.

It uses the standard library alone, because it is what one runs when something is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows ``spikeloom``; None takes them from the process.

    Returns:
        The exit status.
    """
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
    commands = parser.add_subparsers(required=True, metavar="command")
    doctor = commands.add_parser("doctor", help="versions, hosts, and what runs on each device")
    doctor.add_argument("--json", action="store_true", help="print JSON, for a bug report")
    doctor.set_defaults(run=_doctor)
    source = commands.add_parser("source", help="the kernel generated for a neuron")
    source.add_argument("neuron", help="a class of spikeloom.neurons, such as LIF")
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
    from spikeloom import neurons
    from spikeloom.kernel.source import source

    if options.neuron not in neurons.__all__:
        raise ValueError(f"neuron: one of {', '.join(neurons.__all__)}, got {options.neuron!r}")
    described = getattr(neurons, options.neuron)()
    return source(
        described, target=options.target, direction=options.direction, dtype=options.dtype
    )


if __name__ == "__main__":
    sys.exit(main())
