"""What an export reports: a row for each module, and how file and model compare."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from spikeloom.export.targets.profiles import PROFILES
from spikeloom.report import Report

__all__ = ["ExportReport"]

COLUMNS = ("module", "kind", "verdict", "nodes", "mismatch", "note")


@dataclass
class ExportReport(Report):
    """What was written for each module, and how it compares.

    Attributes:
        mismatch: Share of the output's entries on the sample in which the model differs from the
            file as it was read back.
        readers: The same share for each framework's reader, computed in its arithmetic.
        target: For whom it was written.
        dt: Time step in seconds.
    """

    mismatch: float = math.nan
    readers: dict[str, float] = field(default_factory=dict)
    target: str = ""
    dt: float = math.nan

    def as_dict(self) -> dict[str, Any]:
        """The table, and the numbers that concern the whole model."""
        return {
            **super().as_dict(),
            "target": self.target,
            "dt": self.dt,
            "mismatch": self.mismatch,
            "readers": self.readers,
        }

    @classmethod
    def about(
        cls, model: str, target: str, dt: float, mismatch: float, readers: dict[str, float]
    ) -> ExportReport:
        """A report without rows.

        Args:
            model: The model's class.
            target: For whom it was written.
            dt: Time step in seconds.
            mismatch: Share of the output that differs.
            readers: The same for each framework's reader.
        """
        title = f"{model} as NIR for {target}"
        return cls(title, COLUMNS, mismatch=mismatch, readers=readers, target=target, dt=dt)

    def general_notes(self) -> list[str]:
        """Who reads the file, and whose rounding differs."""
        return [
            f"Target {self.target}, {PROFILES[self.target].checked}.",
            *(
                f"{reader} rounds differently: {share:.2%} of the output differs there; a time "
                f"constant of a power of two steps is rounded alike everywhere."
                for reader, share in self.readers.items()
                if share
            ),
        ]
