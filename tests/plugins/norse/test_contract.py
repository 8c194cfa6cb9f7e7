"""Norse fulfils what every host has to; H numbers are those of its conformance list."""

import pytest

from spikeloom.plugins import norse
from spikeloom.plugins.contract import CHECKS, Host


def forward(module, x, state):
    y, state = module(x, state)
    return y, tuple(state)


def step(module, x, state):
    cell = norse.make_cell(module.neuron, implementation=module.implementation)
    y, state = cell(x, state)
    return y, tuple(state)


# The state is in the caller's hands: there is nothing to reset.
HOST = Host("norse", norse.make, forward, lambda module: None, step)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check):
    """H 2, 4, 5, 10, 13 and 15, in part, by host-independent checks."""
    check(HOST)
