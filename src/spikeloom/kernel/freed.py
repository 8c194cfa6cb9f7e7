"""What a node of autograd's graph keeps for its backward pass, and an earlier one may have freed.

It affects everyone who keeps a state from one batch to the next. torch's own message says
nothing of states.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["in_one_node", "save", "saved_tensors"]

REMEDY = (
    "spikeloom: this backward pass reached a neuron's graph that an earlier one has freed. If a "
    "state was carried on from an earlier sequence, reset it before every sequence "
    "(SpikingJelly: functional.reset_net(net); snnTorch: spikeloom.plugins.snntorch.reset(net); "
    "Norse: state=None), or detach it to truncate in time (functional.detach_net(net), "
    "detach_hidden(), state.detach()). To differentiate one loss twice, pass retain_graph=True to "
    "the first backward()."
)


def save(ctx: Any, *tensors: Tensor | None) -> None:
    """Keep tensors for the backward pass, those that were made in inference mode as copies.

    A state is such a tensor if a network was evaluated before it is trained on.

    Args:
        ctx: The context of an ``autograd.Function``.
        tensors: What to keep.
    """
    if not torch.compiler.is_compiling():
        # As it takes no part in autograd, torch refuses to keep one.
        tensors = tuple([t.clone() if t is not None and t.is_inference() else t for t in tensors])
    ctx.save_for_backward(*tensors)


def saved_tensors(ctx: Any) -> tuple[Tensor, ...]:
    """What a node keeps for its backward pass.

    Args:
        ctx: The context of an ``autograd.Function``.

    Raises:
        RuntimeError: If an earlier backward pass has freed the graph.
    """
    if torch.compiler.is_compiling():
        return ctx.saved_tensors
    try:
        return ctx.saved_tensors
    except RuntimeError as error:
        if "second time" not in str(error):
            raise
        raise RuntimeError(REMEDY) from error


class _OneNode(torch.autograd.Function):
    """Everything a call returns, as it is; a backward pass through any of it frees this node."""

    @staticmethod
    def forward(ctx: Any, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved_tensors(ctx)
        return grads


def in_one_node(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The results of a call with one graph node behind them all, as the kernel has it.

    Then it is this node that a second backward pass meets first. Compilers, tracers and
    transformations know no freed graph, and get the results as they are.

    Args:
        values: Results computed step by step.
    """
    watched = (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
    )
    learned = [value for value in values if value.requires_grad]
    if watched or not learned:
        return values
    results = iter(_OneNode.apply(*learned))
    return tuple(next(results) if value.requires_grad else value for value in values)
