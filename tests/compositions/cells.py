"""A cell: what one end makes of one compressed network."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass

from tests.compositions import subjects  # noqa: F401 -- lists them
from tests.compositions.compressions import COMPRESSIONS, compressed
from tests.compositions.ends import (
    compiling,
    distributed,
    energy,
    exchange,
    finishing,
    folding,
    freedom,
    storage,
)
from tests.compositions.subject import SUBJECTS
from tests.matrix.cells import REFUSALS, Outcome

__all__ = ["CELLS", "ENDS", "Cell", "outcome"]

ENDS = {
    "finish": finishing.judge,
    "fold_norms": folding.judge,
    "check_mfi": freedom.judge,
    "count_energy": energy.judge,
    "to_nir": exchange.judge,
    "save, load": storage.judge,
    "compile": compiling.judge,
    "DDP": distributed.judge,
}


@dataclass(frozen=True)
class Cell:
    """A network, how it was compressed, and what follows."""

    subject: str
    how: str
    end: str

    def of(self, words: dict[str, str]) -> str:
        """What a subject says of the cell, by its end or by how and end."""
        return words.get(self.end, words.get((self.how, self.end), ""))


CELLS = [Cell(name, how, end) for name in SUBJECTS for how in COMPRESSIONS for end in ENDS]


@functools.cache
def outcome(cell: Cell) -> Outcome:
    """Judge one cell.

    Raises:
        AssertionError: If a result is wrong.
        Exception: What crashed.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        case = compressed(cell.subject, cell.how)
        try:
            ENDS[cell.end](case)
        except REFUSALS as error:
            return Outcome(refusal=str(error))
    told = [str(w.message) for w in caught if w.category is UserWarning]
    return Outcome(warning="\n".join(dict.fromkeys(told)))
