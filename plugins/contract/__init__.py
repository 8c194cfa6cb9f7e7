"""What a neuron has to do on every host, whatever the host's conventions.

A host's tests describe the host once and run every check on it, with pytest or without::

    HOST = Host("norse", norse.make, forward=..., reset=...)

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_contract(check):
        check(HOST)

Each check raises an AssertionError if the host does not keep to it. The loops to compare with
are plain torch in float64.
"""

from __future__ import annotations

from . import installing, keeping, learning, running, using
from .host import Host
from .installing import a_missing_host_is_one_clear_error, importing_it_imports_nothing_foreign
from .reference import adaptive, adaptive_loop, close, grid, lif, lif_loop, raises, same, weight

__all__ = [
    "CHECKS",
    "Host",
    "a_missing_host_is_one_clear_error",
    "adaptive",
    "adaptive_loop",
    "close",
    "grid",
    "importing_it_imports_nothing_foreign",
    "lif",
    "lif_loop",
    "raises",
    "same",
    "weight",
]

CHECKS = (
    *running.CHECKS,
    *learning.CHECKS,
    *keeping.CHECKS,
    *using.CHECKS,
    *installing.CHECKS,
)
