"""SpikingJelly 2.0, or one clear error."""

from __future__ import annotations

from ..adapter import require


def require_host() -> None:
    """Raise unless a SpikingJelly with explicit-state neurons is installed.

    Raises:
        ImportError: If it is missing or older than 2.0.
    """
    require("spikingjelly", ">=2.0")
    from spikingjelly.activation_based.base import MemoryModule

    # The contract counts, not the version string: 2.0 brought the explicit-state transition.
    if not hasattr(MemoryModule, "single_step_functional_forward"):
        raise ImportError(
            "spikeloom.plugins.spikingjelly needs spikingjelly>=2.0, the one installed is older: "
            'pip install --upgrade "spikeloom[spikingjelly]"'
        )
