"""Rules with which SpikingJelly's operation counters see our neurons and signed spikes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.kernel.trace import Program, schedule

from .node import SpikeloomNode

__all__ = ["signed_rules", "state_rules"]

aten = torch.ops.aten

# Operations of a step, as NeuronStateCounter names them.
_METRICS = {
    "state_adds": {"add", "sub"},
    "state_muls": {"mul", "div"},
    "state_comps": {"gt", "ge", "eq"},
    "state_select_ops": {"where"},
    "state_nonlinear_ops": {"exp", "log", "sqrt", "erf"},
}

# Where a matrix product takes spikes: as the left matrix, in attention on either side.
_SPIKES = {
    aten.mm.default: (0,),
    aten.addmm.default: (1,),
    aten.convolution.default: (0,),
    aten.bmm.default: (0, 1),
    aten.baddbmm.default: (1, 2),
}


def state_rules(net: nn.Module) -> dict[type[nn.Module], Callable[..., dict[str, int] | None]]:
    """``extra_state_rules`` for SpikingJelly's ``NeuronStateCounter``.

    A sequence is one operator, in which that counter sees nothing by itself. The rule counts, for
    each neuron and step, one read and one write of every state and the operations of the step.
    ``NeuromorphicMemoryAccessCounter`` and the energy estimates built on it need no rule.

    Args:
        net: The network that will be counted.

    Example:
        >>> import torch
        >>> from spikingjelly.activation_based.op_counter import (
        ...     DispatchCounterMode, NeuronStateCounter)
        >>> from spikeloom.plugins.spikingjelly import LIFNode, state_rules
        >>> node = LIFNode(step_mode="m")
        >>> counter = NeuronStateCounter(extra_state_rules=state_rules(node))
        >>> with DispatchCounterMode([counter]):
        ...     _ = node(torch.rand(4, 10))
        >>> counter.get_metric_counts()["Global"]["state_reads"]
        160
    """
    return {type(node): _state_rule for node in net.modules() if isinstance(node, SpikeloomNode)}


def _state_rule(
    module: nn.Module, func: Any, args: Any, kwargs: Any, out: Any, keys: Any
) -> dict[str, int] | None:
    if func is not torch.ops.spikeloom.scan.default:
        return None  # eager: SpikingJelly counts the step's own operations
    text, steps, _, xs, states, _ = args
    logical_steps = steps * xs[0].shape[1:].numel()
    state_bytes = steps * sum(state.numel() * state.element_size() for state in states)
    program = Program.parse(text)
    # Surrogate derivatives are in the graph too, but no forward step computes them.
    computed = schedule(program.nodes, (*program.outputs, *program.next))
    done = Counter(program.nodes[number][0] for number in computed)
    counts = {
        metric: logical_steps * sum(done[name] for name in names)
        for metric, names in _METRICS.items()
    }
    return {
        **counts,
        "state_reads": state_bytes,
        "state_writes": state_bytes,
        "neuron_logical_steps": logical_steps,
    }


def signed_rules(counter: Any) -> dict[Any, Callable[..., int]]:
    """``extra_rules`` that count signed spikes as spikes.

    SpikingJelly takes a tensor for spikes if all of it is 0 or 1, so -1, 0, 1 become
    multiply-accumulates. With these rules a tensor whose values are -a, 0 and a (one a for the
    whole tensor, which the weights can absorb) counts as its spikes' presence.

    Args:
        counter: The class whose rules are extended: ``SynOpCounter``, ``ACCounter`` or
            ``MACCounter``.

    Example:
        >>> import torch
        >>> from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter
        >>> from spikeloom.plugins.spikingjelly import signed_rules
        >>> spikes = torch.tensor([[-1.0, 0.0, 1.0]])
        >>> counter = SynOpCounter(extra_rules=signed_rules(SynOpCounter))
        >>> with DispatchCounterMode([counter]):
        ...     _ = torch.nn.Linear(3, 4)(spikes)
        >>> counter.get_total()
        8
    """
    rules = counter().rules
    return {func: _on_events(func, rules[func]) for func in _SPIKES if func in rules}


def _on_events(func: Any, rule: Callable[..., int]) -> Callable[..., int]:
    def count(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> int:
        events = [
            _events(value) if place in _SPIKES[func] else value for place, value in enumerate(args)
        ]
        if all(after is before for after, before in zip(events, args, strict=True)):
            return rule(args, kwargs, out)
        # Coincidences of spikes on both sides are read off the product, so it must be theirs.
        return rule(tuple(events), kwargs, func(*events, **kwargs))

    return count


def _events(x: Tensor) -> Tensor:
    """0 and 1 for a tensor of -a, 0 and a; any other tensor as it is."""
    if not x.numel() or not x.is_floating_point():
        return x
    height = x.abs().max()
    present = x != 0
    if bool((x.abs() == height * present).all()):
        return present.to(x.dtype)
    return x
