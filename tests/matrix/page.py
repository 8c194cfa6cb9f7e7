"""The page docs/matrix.md, written from a run of all cells: python -m tests.matrix.page PATH."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import ModuleType

from spikeloom.files import write_text
from tests.matrix.cells import METHODS, outcome
from tests.matrix.model import MODELS, SPIKES_ALREADY
from tests.matrix.models import (
    analog,
    attention,
    containers,
    forwards,
    hosts,
    layers,
    norms,
    steps,
)

__all__ = ["write_matrix_page"]

HEAD = """# Models and methods

<!-- Written by `python -m tests.matrix.page docs/matrix.md`; change that, not this file. -->

Small models, each of which does one thing that real code does, and what every method makes of it.
**right** means that the result was compared with something that shares no code with the method:

- `compress.calibrate` and `prune`: a float64 run of the model, whose hooks note what layers read;
  the Hessian and the compensated weights by their definitions.
- `verify.fold_norms`: the outputs of the model in float64.
- `verify.check_mfi`: the verdict, and the modules to blame, named by a reader of the model.
- `verify.count_energy`: spikes and synapses counted by hooks in a plain run.
- `export.to_nir`: the model's spikes, on the sample and on three other inputs.
- `convert.LAS` and `convert.SignGD`: the model's output, within 1 % and 2 %.

**refused** means an error that names the place, and what to do. **fault** is a wrong result, or an
error without a place, that is known and not mended yet. A network that spikes is
none that LAS and signGD convert, and one without neurons seldom one that NIR can express: such
cells have to be refused too.
"""

PARTS = (forwards, containers, steps, layers, norms, hosts, analog, attention)
NOT_EXPRESSIBLE = "NIR cannot express the model exactly; nothing was written:"
# What follows is worded by torch, and by each release in its way.
OF_TORCH = " torch.export says:"


def write_matrix_page(path: str | os.PathLike[str]) -> None:
    """Run all cells and write the page.

    Args:
        path: Where to write it.
    """
    write_text(path, "\n".join([HEAD, *_tables(), *_refusals()]).rstrip() + "\n")


def _tables() -> Iterator[str]:
    for part in PARTS:
        yield from (f"## {part.__doc__.strip('.')}", "")
        yield "| model | what is particular about it | " + " | ".join(METHODS) + " |"
        yield "| --- " * (2 + len(METHODS)) + "|"
        for name in _models(part):
            cells = " | ".join(_cell(name, method) for method in METHODS)
            yield f"| {name} | {MODELS[name].why} | {cells} |"
        yield ""


def _models(part: ModuleType) -> list[str]:
    return [name for name, model in MODELS.items() if model.build.__module__ == part.__name__]


def _cell(name: str, method: str) -> str:
    if method in MODELS[name].known:
        return "fault"
    found = outcome(name, method)
    if found.refusal:
        return "refused"
    return "right, with a warning" if found.warning else "right"


def _refusals() -> Iterator[str]:
    yield "## What is said"
    yield ""
    yield "The first line of each error and warning, but for those that tell of a network that it"
    yield "spikes already."
    for name in (name for part in PARTS for name in _models(part)):
        lines = [line for method in METHODS if (line := _said(name, method))]
        if lines:
            yield from ("", f"### {name}", "", *lines)


def _said(name: str, method: str) -> str:
    fault = MODELS[name].known.get(method)
    if fault:
        return f"- {method}, a fault: {fault}"
    found = outcome(name, method)
    if MODELS[name].refused.get(method) == SPIKES_ALREADY.get(method, found):
        return ""
    text = (found.refusal or found.warning).removeprefix(NOT_EXPRESSIBLE)
    first = text.partition(OF_TORCH)[0].strip().split("\n")[0]
    return f"- {method}: `{first}`" if first else ""


if __name__ == "__main__":
    write_matrix_page(sys.argv[1])
