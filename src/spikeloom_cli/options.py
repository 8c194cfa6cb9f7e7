"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Json", "Model", "Out", "Sample", "Seed", "Tokens", "TrustPickle", "Weights"]

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A folder that save_pretrained of Hugging Face wrote, or package.module:name of a "
        "torch module or of a function that makes one; modules are also looked for in the "
        "current folder.",
        show_default=False,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="Weights to load into MODEL: a state_dict as .safetensors, or as .pt.",
        show_default=False,
    ),
]
Sample = Annotated[
    str,
    typer.Option(
        help="Inputs for MODEL: a tensor as .pt, .npy or .safetensors, or package.module:name of "
        "a batch or of a function that makes one.",
        show_default=False,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="The folder to write to.", show_default=False, file_okay=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random, such as initial weights.")]
Tokens = Annotated[int, typer.Option(min=1, help="At most so many tokens of each text.")]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Let MODEL be a folder with a network.pt that convert wrote. Reading it can run any "
        "code, so only do this with files of your own.",
    ),
]
