"""``spikeloom source``."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from spikeloom_cli.settings import called_with, settings_of

if TYPE_CHECKING:
    from spikeloom import Neuron

__all__ = ["described", "source"]


class Target(StrEnum):
    """The language of a kernel."""

    cuda = "cuda"
    llvm = "llvm"


class Direction(StrEnum):
    """The pass that a kernel computes."""

    forward = "forward"
    backward = "backward"


def source(
    neuron: Annotated[
        str,
        typer.Argument(help="A class of spikeloom.neurons, such as Leaky.", show_default=False),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="Its arguments, such as beta=0.9.", metavar="[NAME=VALUE]..."),
    ] = None,
    target: Annotated[Target, typer.Option(help="The language of the kernel.")] = Target.cuda,
    direction: Annotated[Direction, typer.Option(help="The pass.")] = Direction.forward,
    dtype: Annotated[str, typer.Option(help="The dtype of inputs and outputs.")] = "float32",
) -> None:
    """Print the kernel that is generated for a neuron."""
    import spikeloom

    description = described(neuron, arguments or [])
    typer.echo(spikeloom.source(description, target.value, direction.value, dtype))


def described(name: str, arguments: list[str]) -> Neuron:
    """A neuron by its class's name and its arguments.

    Args:
        name: A class of spikeloom.neurons.
        arguments: Such as ``beta=0.9``.
    """
    from spikeloom import Neuron, neurons

    offered = {key: getattr(neurons, key) for key in neurons.__all__}
    classes = {
        key: c for key, c in offered.items() if isinstance(c, type) and issubclass(c, Neuron)
    }
    if name not in classes:
        raise ValueError(f"neuron: must be one of {', '.join(classes)}, got {name!r}")
    neuron: Neuron = called_with(classes[name], settings_of("arguments", arguments))
    return neuron
