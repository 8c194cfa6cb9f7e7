"""The models; importing the package lists all of them in `tests.matrix.model.MODELS`."""

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

__all__ = ["analog", "attention", "containers", "forwards", "hosts", "layers", "norms", "steps"]
