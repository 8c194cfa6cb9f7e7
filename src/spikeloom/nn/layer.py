"""SpikeFed: what the layers have in common that add what fired."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from spikeloom.nn.operation import Operation

__all__ = ["SpikeFed", "checked_threshold"]


def checked_threshold(threshold: float | None, name: str = "threshold") -> float | None:
    """The argument of a layer, if it is a density.

    Args:
        threshold: What a user gave.
        name: Of the argument.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is outside of [0, 1].
    """
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        raise TypeError(
            f"{name}: must be a density in [0, 1], or None to have it measured, got {threshold!r}"
        )
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"{name}: must be a density in [0, 1], got {threshold}")
    return float(threshold)


class SpikeFed(nn.Module):
    """A layer that adds the weights of the inputs that fired, while these are few.

    Attributes:
        dense_class: The layer's class if it did not.
    """

    # Tracers (torch.fx, nirtorch) see a layer, not how it adds.
    _is_leaf_module = True

    _threshold: float | None = None
    dense_class: ClassVar[type[nn.Module]]

    @property
    def threshold(self) -> float | None:
        """The share of inputs that fire up to which they are added; None has it measured."""
        return self._threshold

    @threshold.setter
    def threshold(self, threshold: float | None) -> None:
        self._threshold = checked_threshold(threshold)

    def operation(self) -> Operation | None:
        """What the layer computes; None if events know nothing like it."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """That of the dense layer, and the threshold where one is set."""
        stated = "" if self.threshold is None else f", threshold={self.threshold}"
        return super().extra_repr() + stated
