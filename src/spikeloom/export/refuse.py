"""What cannot be written, said once, for every module of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["NotExpressible", "Offence", "Refused", "Verdict"]


class Verdict:
    """How exactly a module can be written in NIR."""

    EXACT = "EXACT"
    SUBGRAPH = "SUBGRAPH"
    APPROXIMATE = "APPROXIMATE"
    EXTENSION = "EXTENSION"
    UNSUPPORTED = "UNSUPPORTED"


class Refused(Exception):
    """A module that cannot be written as it is.

    Args:
        reason: Why.
        remedy: What to do instead.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


@dataclass(frozen=True)
class Offence:
    """One module that the export would not write exactly.

    Attributes:
        module: Its name in the user's model.
        kind: What it is, such as ``LIF``.
        verdict: One of :class:`Verdict`.
        reason: Why it is not exact.
        remedy: What to change, or the flag that allows it.
        error: Known or measured share of wrong spikes, if any.
    """

    module: str
    kind: str
    verdict: str
    reason: str
    remedy: str
    error: float | None = None

    def __str__(self) -> str:
        error = "" if self.error is None else f" ({self.error:.2%} of the output differs)"
        return f"{self.module} ({self.kind}) is {self.verdict}: {self.reason}{error}; {self.remedy}"


class NotExpressible(ValueError):
    """The model cannot be written exactly; every module that prevents it is listed.

    Attributes:
        offences: The modules, why, and the remedy for each.
    """

    def __init__(self, offences: Sequence[Offence]) -> None:
        self.offences = tuple(offences)
        lines = "\n".join(f"  {offence}" for offence in self.offences)
        super().__init__(f"NIR cannot express the model exactly; nothing was written:\n{lines}")

    def __reduce__(self) -> tuple[type, tuple[tuple[Offence, ...]]]:
        return type(self), (self.offences,)
