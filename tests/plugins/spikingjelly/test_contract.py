"""SpikingJelly fulfils what every host has to; H numbers are those of its conformance list."""

import pytest
from spikingjelly.activation_based import base

from spikeloom.plugins import spikingjelly
from spikeloom.plugins.contract import CHECKS, Host


def own_state(node):
    return tuple(base.extract_memories(node))


def forward(node, x, state):
    """From the memories if there is no explicit state, through the explicit transition if so."""
    node.step_mode = "m"
    if state is None:
        return node(x), own_state(node)
    (y,), state = node.functional_forward((x,), state)
    return y, state


def step(node, x, state):
    node.step_mode = "s"
    if state is None:
        return node(x), own_state(node)
    (y,), state = node.functional_forward((x,), state)
    return y, state


HOST = Host("spikingjelly", spikingjelly.make, forward, lambda node: node.reset(), step)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check):
    """H 3, 4, 9, 12, 16, 19, 20, 23, 24, 32, 37, 39 and 40, in part, by host-independent checks."""
    check(HOST)
