"""Looking at networks: what torch's operations do to the values that they take."""

from spikeloom.observe.operation import EVERY, Effect, Operation
from spikeloom.observe.operators import meaning_of, register

__all__ = ["EVERY", "Effect", "Operation", "meaning_of", "register"]
