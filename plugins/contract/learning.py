"""What is learned through a module: gradients, and parameters that train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .host import Host
from .reference import adaptive, adaptive_loop, close, grid, lif, lif_loop, raises, same, weight

__all__ = ["CHECKS"]


def gradients_equal_the_reference(host: Host) -> None:
    """Gradients of input, state and parameter are those of the loop."""
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        for hard in (True, False):
            for detach in (True, False):
                x, v = grid(8, 3, 4), grid(3, 4, seed=1)
                leaves = [t.double().requires_grad_() for t in (x, v, torch.tensor(2.0))]
                y, (last,) = lif_loop(leaves[0], (leaves[1],), leaves[2], hard=hard, detach=detach)
                (y * weight(y) + last).sum().backward()

                module = host.make(
                    lif(hard=hard, detach=detach, tau=nn.Parameter(torch.tensor(2.0)))
                ).to(dtype)
                (tau,) = module.parameters()
                x, v = (t.to(dtype).requires_grad_() for t in (x, v))
                y, (last,) = host.forward(module, x, (v,))
                (y * weight(y) + last).sum().backward()
                for own, reference in zip((x, v, tau), leaves, strict=True):
                    close(own.grad, reference.grad, tolerance)


def a_second_backward_pass_names_the_remedy(host: Host) -> None:
    """A state of an earlier graph is refused with the remedy."""
    for implementation in ("llvm", "eager"):
        module = host.make(lif(tau=nn.Parameter(torch.tensor(2.0))), implementation=implementation)
        first, second = grid(6, 2, 3).split(3)
        y, state = host.forward(module, first, None)
        y.sum().backward()
        y, _ = host.forward(module, second, state)
        with raises(RuntimeError, match=r"reset_net\(net\).*reset\(net\).*state=None"):
            y.sum().backward()
        host.reset(module)
        y, state = host.forward(module, first, None)
        y.sum().backward(retain_graph=True)
        y, _ = host.forward(module, second, state)
        y.sum().backward()


def a_checkpointed_region_has_the_gradients_of_the_plain_one(host: Host) -> None:
    """A checkpointed call gives the same gradients."""

    def gradients(call: Callable[..., Any]) -> Any:
        module = host.make(lif(tau=nn.Parameter(torch.tensor(2.0))))
        x, state = grid(8, 2, 3).requires_grad_(), None
        y, state = call(host.forward, module, x[:4], None)
        z, (v,) = call(host.forward, module, x[4:], state)
        (torch.cat([y, z]) * weight(x) + v).sum().backward()
        return x.grad, [parameter.grad for parameter in module.parameters()]

    plain = gradients(lambda f, *args: f(*args))
    same(gradients(lambda f, *args: checkpoint(f, *args, use_reentrant=False)), plain)


def per_neuron_parameters_learn(host: Host) -> None:
    """A Parameter with a value for each neuron is learned."""
    tau = nn.Parameter(torch.tensor([2.0, 4.0, 8.0]))
    x, module = grid(8, 2, 3), host.make(lif(tau=tau))
    (own,) = module.parameters()
    assert own.shape == (3,)
    y, (v,) = host.forward(module, x, None)
    (y * weight(y) + v).sum().backward()
    reference = tau.detach().double().requires_grad_()
    start = (torch.zeros(2, 3).double(),)
    z, (w,) = lif_loop(x.double(), start, reference, hard=True, detach=False)
    same(y, z.float())
    (z * weight(z) + w).sum().backward()
    close(own.grad, reference.grad)


def a_neuron_of_the_user_trains(host: Host) -> None:
    """A step that a user wrote runs and trains."""
    module = host.make(adaptive(rise=nn.Parameter(torch.tensor(0.5))))
    (rise,) = module.parameters()
    x = grid(10, 2, 3).requires_grad_()
    y, state = host.forward(module, x, None)
    (y * weight(y) + sum(state)).sum().backward()

    z = x.detach().double().requires_grad_()
    reference = torch.tensor(0.5).double().requires_grad_()
    start = (torch.zeros(2, 3).double(),) * 2
    spikes, last = adaptive_loop(z, start, reference)
    (spikes * weight(spikes) + sum(last)).sum().backward()
    same(y, spikes.float())
    close(x.grad, z.grad)
    close(rise.grad, reference.grad)


CHECKS = (
    gradients_equal_the_reference,
    a_second_backward_pass_names_the_remedy,
    a_checkpointed_region_has_the_gradients_of_the_plain_one,
    per_neuron_parameters_learn,
    a_neuron_of_the_user_trains,
)
