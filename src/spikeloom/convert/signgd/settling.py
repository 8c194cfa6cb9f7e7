"""How far off a network is expected to be after T steps, and how many steps it needs.

Two things are added. A node's estimate moves by its last step, and what this does to the outputs is
seen in the plain network: it shrinks by the decay with every step. And a share of what nodes walked
while those before them still moved is never repaired: the less caution, the more, however many
steps there are. These shares were measured on networks of 2 to 49 nodes in a chain: perceptrons,
convolutional and residual networks, mixers and transformers. In other networks a few channels may
react far more strongly than their layer, so what is expected is tried on a few samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

from spikeloom.convert.signgd.search import Setting

__all__ = ["SETTLED", "expected_error", "settling_times", "unseen_loss", "usual_settings"]

# The share of its reach by which a node stays off, by decay and caution, at the largest margin.
UNREPAIRED: dict[tuple[float, float], float] = {
    (0.6, 8.0): 2.5e-3,
    (0.6, 16.0): 5e-5,
    (0.7, 0.0): 0.06,
    (0.7, 1.4): 0.056,
    (0.7, 2.0): 0.02,
    (0.7, 2.8): 3e-3,
    (0.7, 4.0): 1.2e-4,
    (0.7, 8.0): 6e-6,
    (0.7, 16.0): 6e-7,
    (0.8, 1.0): 7.5e-3,
    (0.8, 1.4): 7.5e-4,
    (0.8, 2.0): 2e-5,
    (0.8, 2.8): 1e-6,
    (0.85, 1.0): 6e-4,
    (0.85, 1.4): 2e-6,
}
# What unseen inputs lose beyond the reach of nodes, by margin.
CUT = {0.6: 0.3, 1.0: 0.1, 1.5: 0.03, 2.5: 0.0}
# An error of the outputs, relative to their spread, that no longer matters.
SETTLED = 0.01

# From caution and extreme to how far the outputs move, see Disturbance.
Moved = Callable[[float, float], float]


def expected_error(setting: Setting, moved: Moved, steps: int) -> float:
    """The expected error of the outputs on unseen inputs, relative to their spread.

    Args:
        setting: Of the whole network.
        moved: From caution and extreme to how far the outputs move.
        steps: T.
    """
    last = setting.margin * (1.0 - setting.decay) * setting.decay ** (steps - 1)
    return (
        moved(setting.caution, setting.extreme) * last
        + _unrepaired(setting, moved)
        + CUT[setting.margin]
    )


def usual_settings(moved: Moved, steps: int) -> list[Setting]:
    """Settings for a network, the one of which least error is expected first.

    Args:
        moved: From caution and extreme to how far the outputs move.
        steps: T.
    """
    settings = [Setting(margin, *others) for margin, others in product(CUT, UNREPAIRED)]
    return sorted(settings, key=lambda setting: expected_error(setting, moved, steps))


def settling_times(moved: Moved) -> list[tuple[int, Setting]]:
    """After how many steps the outputs are expected to be off by 1 % of their spread.

    One number for each setting with which they should get there, the least first.

    Args:
        moved: From caution and extreme to how far the outputs move.
    """
    times = []
    for extreme, (decay, caution) in product((0.0, 1.0), UNREPAIRED):
        setting = Setting(max(CUT), decay, caution, extreme)
        left = SETTLED - _unrepaired(setting, moved)
        first = moved(caution, extreme) * setting.margin * (1.0 - decay)
        if left > 0.0 and math.isfinite(first):
            ratio = max(1.0, first / left)
            times.append((1 + math.ceil(math.log(ratio) / -math.log(decay)), setting))
    return sorted(times, key=lambda pair: pair[0])


def unseen_loss(margin: float, samples: int) -> float:
    """A squared error to expect of unseen inputs beyond what some samples show of what is cut.

    The rare values that are cut are not among a few samples, so the fewer these are, the more
    counts what was seen elsewhere.

    Args:
        margin: The path of a node as a multiple of its reach.
        samples: How many are tried.
    """
    return CUT.get(margin, 0.0) ** 2 / samples


def _unrepaired(setting: Setting, moved: Moved) -> float:
    """What the share that stays does to the outputs; it is larger where less path is left.

    Nodes are not off by much more than they can walk.
    """
    share = UNREPAIRED[setting.decay, setting.caution] * (max(CUT) / setting.margin) ** 2
    return min(moved(0.0, 0.0) * share, 1.5 * setting.margin)
