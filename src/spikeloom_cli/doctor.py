"""``spikeloom doctor``."""

from __future__ import annotations

from spikeloom_cli.options import Json
from spikeloom_cli.output import show

__all__ = ["doctor"]


def doctor(json: Json = False) -> None:
    """Check the installation: versions, frameworks, and what runs on each device."""
    import spikeloom

    show(spikeloom.doctor(), json)
