"""A cell of the matrix: what one method makes of one model."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass

from tests.matrix import models  # noqa: F401 -- lists them
from tests.matrix.methods import energy, exchange, folding, freedom, hessians, las, signgd
from tests.matrix.model import MODELS

__all__ = ["METHODS", "Outcome", "outcome"]

METHODS = {
    "calibrate, prune": hessians.judge,
    "fold_norms": folding.judge,
    "check_mfi": freedom.judge,
    "count_energy": energy.judge,
    "to_nir": exchange.judge,
    "LAS": las.judge,
    "SignGD": signgd.judge,
}
# How the project says that it cannot do something; any other error is a crash.
REFUSALS = (ValueError, TypeError, NotImplementedError)


@dataclass(frozen=True)
class Outcome:
    """What came of a cell.

    Attributes:
        refusal: The message of a refusal; empty if the result is right.
        warning: The first line of the warning that came with it, or empty.
    """

    refusal: str = ""
    warning: str = ""


@functools.cache
def outcome(name: str, method: str) -> Outcome:
    """Judge one cell.

    Args:
        name: Of a model.
        method: One of the methods.

    Raises:
        AssertionError: If a result is wrong.
        Exception: What the method crashed with.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            METHODS[method](MODELS[name])
        except REFUSALS as error:
            return Outcome(refusal=str(error))
    told = [str(w.message) for w in caught if w.category is UserWarning]
    return Outcome(warning="\n".join(told))
