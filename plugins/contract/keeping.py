"""A module as torch keeps it: copied, pickled, saved, traced."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import nn

from .host import Host
from .reference import adaptive, grid, lif, raises, same

__all__ = ["CHECKS"]


def copies_and_pickles_are_independent(host: Host) -> None:
    """Copies and pickles compute the same with tensors of their own."""
    x = grid(5, 2, 3).requires_grad_()
    # A step defined at module level, as pickle needs it.
    module = host.make(adaptive(rise=nn.Parameter(torch.tensor(0.5))))
    y, _ = host.forward(module, x, None)
    y.sum().backward()
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        host.reset(twin)
        again, _ = host.forward(twin, x, None)
        same(again, y)
        assert not set(map(id, twin.parameters())) & set(map(id, module.parameters()))


def saved_parameters_load_into_a_fresh_node(host: Host) -> None:
    """A state_dict loads into another module."""

    def fresh(rise: float) -> nn.Module:
        return host.make(adaptive(rise=nn.Parameter(torch.tensor(rise))))

    module, other = fresh(0.25), fresh(0.75)
    host.forward(module, grid(3, 4), None)
    other.load_state_dict(module.state_dict(), strict=True)
    x = grid(6, 9)
    host.reset(module)
    same(host.forward(other, x, None), host.forward(module, x, None))


def only_neurons_are_accepted(host: Host) -> None:
    """What is no description is refused."""
    with raises(TypeError, match="neuron"):
        host.make(nn.ReLU())


def tracers_never_look_inside(host: Host) -> None:
    """Tracers take a module as one thing."""
    assert getattr(host.make(lif()), "_is_leaf_module", False) is True


CHECKS = (
    copies_and_pickles_are_independent,
    saved_parameters_load_into_a_fresh_node,
    only_neurons_are_accepted,
    tracers_never_look_inside,
)
