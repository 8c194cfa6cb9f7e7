"""What every host's modules do, on snnTorch's."""

import pytest

from spikeloom.plugins import snntorch
from spikeloom.plugins.contract import (
    CHECKS,
    Host,
    a_missing_host_is_one_clear_error,
    importing_it_imports_nothing_foreign,
)


def in_host_order(state):
    """The membrane potential last."""
    return () if state is None else (*state[1:], state[0])


def split(answer):
    """``(spk, *others, mem)`` as output and states in the neuron's order."""
    y, *others, mem = answer
    return y, (mem, *others)


HOST = Host(
    "snntorch",
    snntorch.make,
    forward=lambda module, x, state: split(module.sequence(x, *in_host_order(state))),
    reset=snntorch.reset,
    step=lambda module, x, state: split(module(x, *in_host_order(state))),
)


# 4, 24, 29 and more
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check):
    check(HOST)


def keeps_its_state(neuron, **kw):
    return snntorch.make(neuron, init_hidden=True, output=True, time_first=True, **kw)


def from_hidden_state(module, x, state):
    # A state can be passed only to a module without its own: through its hidden state here.
    if state is not None:
        module._hidden = state
    return split(module(x))


HIDDEN = Host("snntorch", keeps_its_state, forward=from_hidden_state, reset=snntorch.reset)


OF_THE_PLUGIN = {importing_it_imports_nothing_foreign, a_missing_host_is_one_clear_error}
OF_A_MODULE = [check for check in CHECKS if check not in OF_THE_PLUGIN]


@pytest.mark.parametrize("check", OF_A_MODULE, ids=lambda check: check.__name__)
def test_contract_with_hidden_state(check):
    check(HIDDEN)
