"""Rules with which SpikingJelly's operation counters count all of a step of ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from spikingjelly.activation_based.op_counter import (
    FlopCounter,
    MemoryAccessCounter,
    NeuronStateCounter,
)
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from spikeloom.observe.dialects import name_of, overloads_of

if TYPE_CHECKING:
    from .node import SpikeloomNode

__all__ = ["complete_rules"]

# Under which metric of NeuronStateCounter an operation of a step counts.
_METRICS = {
    "state_adds": "add sub rsub neg",
    "state_muls": "mul div reciprocal",
    "state_comps": "gt ge lt le eq ne logical_and logical_or logical_not",
    "state_select_ops": "where index",
    "state_nonlinear_ops": "exp log sqrt erf floor round abs",
}
_METRIC = {name: metric for metric, names in _METRICS.items() for name in names.split()}
_OPERATIONS = [overload for name in _METRIC for overload in overloads_of(name)]


@contextmanager
def complete_rules(
    modes: Iterable[Any], node: SpikeloomNode, x: Tensor, states: tuple[Tensor, ...]
) -> Iterator[None]:
    """While a neuron of ours runs, let counters of all operations count all of its step.

    SpikingJelly's rules are made for its own neurons. ``FlopCounter`` and ``MemoryAccessCounter``
    have none for some operations, which count here as one for each element, and as the bytes read
    and written. ``NeuronStateCounter`` follows what becomes of one state: here it counts every
    operation of a step, and one read and one write of every state. A rule that a counter has of its
    user's stays, and after the call it has no others.

    Args:
        modes: The modes that count.
        node: The neuron.
        x: Its input.
        states: Its states.
    """
    added = []
    for mode in modes:
        for counter in getattr(mode, "counters", ()):
            rules, wanted = _wanted(counter, node, x, states)
            missing = {key: rule for key, rule in wanted.items() if key not in rules}
            rules.update(missing)
            added.append((rules, missing))
    try:
        yield
    finally:
        for rules, missing in added:
            for key in missing:
                del rules[key]


def _wanted(
    counter: Any, node: SpikeloomNode, x: Tensor, states: tuple[Tensor, ...]
) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The rules that a counter has, and those that a neuron's step may need."""
    if isinstance(counter, FlopCounter):
        return counter.rules, dict.fromkeys(_OPERATIONS, _elements)
    if isinstance(counter, MemoryAccessCounter):
        return counter.rules, dict.fromkeys(_OPERATIONS, _bytes_moved)
    if isinstance(counter, NeuronStateCounter):
        return counter.extra_state_rules, {type(node): _StateRule(node, x, states)}
    return {}, {}


def _elements(args: Any, kwargs: Any, out: Tensor) -> int:
    return out.numel()


def _bytes_moved(args: Any, kwargs: Any, out: Tensor) -> int:
    return sum(_bytes(leaf) for leaf in tree_leaves((args, out)) if isinstance(leaf, Tensor))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class _StateRule:
    """A rule of ``NeuronStateCounter``, which asks it about every operation of one call.

    Args:
        node: The neuron.
        x: Its input.
        states: Its states.
    """

    def __init__(self, node: SpikeloomNode, x: Tensor, states: tuple[Tensor, ...]) -> None:
        steps = node.neuron.steps or len(x)
        moved = steps * sum(map(_bytes, states))
        # Counted with the first operation, once for the call.
        self._of_the_call = {
            "state_reads": moved,
            "state_writes": moved,
            "neuron_logical_steps": steps * states[0].numel(),
        }

    def __call__(
        self, module: nn.Module, func: Any, args: Any, kwargs: Any, out: Any, keys: Any
    ) -> dict[str, int]:
        counts, self._of_the_call = self._of_the_call, {}
        if metric := _METRIC.get(name_of(func)):
            counts = {**counts, metric: out.numel()}
        return counts
