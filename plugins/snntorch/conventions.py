"""How snnTorch's modules behave, and which of its neurons have a description."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import snntorch

from spikeloom.kernel.fixed import Fixed
from spikeloom.modules import Conventions, Framework, register, register_framework, undescribed
from spikeloom.modules.conventions import carried

__all__ = ["OURS"]


def _take_sequences(module: Any) -> None:
    module.time_first = True


def _keeps_state(module: Any) -> bool:
    return bool(getattr(module, "init_hidden", False))


STEPPED = Conventions(
    describe=undescribed,
    takes_steps=lambda module: True,
    keeps_state=_keeps_state,
    decisive=None,
)
SEQUENCE = replace(STEPPED, takes_steps=lambda module: False)
OURS = Conventions(
    describe=carried,
    takes_steps=lambda module: not module.time_first,
    take_sequences=_take_sequences,
    methods=Fixed({"sequence": True}),
    reset="reset_mem",
    keeps_state=_keeps_state,
    decisive=frozenset({"forward", "sequence"}),
)
SEQUENCES = (
    snntorch.AssociativeLeaky,
    snntorch.LeakyParallel,
    snntorch.LinearLeaky,
    snntorch.StateLeaky,
)

for cls in vars(snntorch).values():
    if isinstance(cls, type) and cls.__module__.startswith("snntorch._neurons."):
        conventions = SEQUENCE if cls in SEQUENCES else STEPPED
        # Those over time carry no state between calls.
        reset = "reset_mem" if hasattr(cls, "reset_mem") else ""
        register(cls, replace(conventions, reset=reset))
register_framework(
    "snntorch",
    Framework(
        "snnTorch",
        homes=("snntorch._neurons.",),
        followed=(),
    ),
)
