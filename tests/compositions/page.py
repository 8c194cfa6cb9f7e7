"""The page docs/compositions.md, written from all cells: python -m tests.compositions.page PATH."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from spikeloom.files import write_text
from tests.compositions.cells import ENDS, Cell, outcome
from tests.compositions.compressions import COMPRESSIONS
from tests.compositions.subject import SUBJECTS
from tests.compositions.subjects import hosts
from tests.matrix.page import NOT_EXPRESSIBLE

__all__ = ["write_compositions_page"]

HEAD = """# The methods together

<!-- Written by `python -m tests.compositions.page docs/compositions.md`; change that, not this. -->

Small networks, trained in a framework or made by a conversion, compressed in four ways, and what
the rest of the library makes of them. **right** means that the result was compared with something
that shares no code with the method:

- `finish`: the same outputs to the last bit; zeros and bits counted in NumPy.
- `fold_norms`: the outputs in float64; removed weights are still zeros, and codes still codes.
- `check_mfi`: the modules to blame, named by a reader of the network, once norms are folded.
- `count_energy`: weights that exist, times the spikes that hooks saw enter them.
- `to_nir`: the file, run by an interpreter, on the sample and on another input.
- save, load: the same outputs to the last bit, with all masks, codes and steps.
- compile: the outputs of `torch.compile`, traced without code generation, before and after
  `finish`.
- DDP: `DistributedDataParallel` in a process of one trains to the weights that training without it
  gives, and removed weights stay zeros.

**refused** means an error that says why, and what to do instead. Layers are pruned to 50 % and
quantised to 4 bits; fine-tuning is two steps.

A network that LAS or signGD converts is best compressed before: ranges and step sizes are then
fitted to what the compressed weights give. Compressed after, it is calibrated on what really enters
its weights: for LAS the sums of the input's spikes, for signGD, as the layers that `as_layers()`
makes, the estimates of every step. Nothing integrates behind such a layer, so that the filter is
the identity.
"""


def write_compositions_page(path: str | os.PathLike[str]) -> None:
    """Run all cells and write the page.

    Args:
        path: Where to write it.
    """
    write_text(path, "\n".join([HEAD, *_tables(), *_refusals()]).rstrip() + "\n")


# The networks of frameworks first, then what conversions made.
NAMES = sorted(SUBJECTS, key=lambda name: SUBJECTS[name].build.__module__ != hosts.__name__)


def _tables() -> Iterator[str]:
    for name in NAMES:
        subject = SUBJECTS[name]
        yield from (f"## {name}", "", subject.why, "")
        yield "| compressed | " + " | ".join(ENDS) + " |"
        yield "| --- " * (1 + len(ENDS)) + "|"
        for how in COMPRESSIONS:
            cells = " | ".join(_word(Cell(name, how, end)) for end in ENDS)
            yield f"| {how} | {cells} |"
        yield ""


def _word(cell: Cell) -> str:
    found = outcome(cell)
    if found.refusal:
        return "refused"
    return "right, with a warning" if found.warning else "right"


def _refusals() -> Iterator[str]:
    yield "## What is said"
    yield ""
    yield "The first line of each error and warning, and where it is said."
    yield ""
    said: dict[tuple[str, str, str], list[str]] = {}
    for name in NAMES:
        for end in ENDS:
            for how in COMPRESSIONS:
                found = outcome(Cell(name, how, end))
                text = (found.refusal or found.warning).removeprefix(NOT_EXPRESSIBLE).strip()
                if text:
                    said.setdefault((name, end, text.split("\n")[0]), []).append(how)
    for (name, end, line), hows in said.items():
        where = "" if len(hows) == len(COMPRESSIONS) else f" ({', '.join(hows)})"
        yield f"- {name}, {end}{where}: `{line}`"


if __name__ == "__main__":
    write_compositions_page(sys.argv[1])
