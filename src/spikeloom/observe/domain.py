"""Domain: a run in which every tensor carries a label, by rules for each kind of operation."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from torch import Tensor
from torch.utils._pytree import tree_leaves

from spikeloom.observe.labels import Labels
from spikeloom.observe.operation import Effect
from spikeloom.observe.run import Call, Run

__all__ = ["PASSING", "Domain"]

L = TypeVar("L")

# Effects by which a result holds values of the arguments in other places; they share a rule.
PASSING = frozenset((Effect.KEEPS, Effect.MOVES, Effect.PADS, Effect.JOINS))
RULES = {effect: "passes" if effect in PASSING else effect.name.lower() for effect in Effect}


class Domain(Run, Generic[L]):
    """A run whose tensors carry labels, from the arguments of each operation to its results.

    A derived class says in :meth:`join` what holds for several labels together, and has a method
    for each effect that does something else: it has the effect's name in lower case
    (:class:`~spikeloom.observe.Effect`), or is ``passes`` for all of :data:`PASSING`. It takes the
    :class:`~spikeloom.observe.run.Call` and returns a label, or one for each result.
    """

    def __init__(self) -> None:
        super().__init__()
        self.labels: Labels[L] = Labels(self.join, self.holder)

    def join(self, *values: Any) -> L:
        """A label that holds for all of these labels, and constants as they are."""
        raise NotImplementedError

    def holder(self, tensor: Tensor) -> Tensor:
        """The tensor whose memory holds a tensor's values."""
        return tensor

    def label(self, call: Call) -> L | list[L]:
        """The label of what a call has made, or a label for each of its results."""
        operation = call.operation
        name = "" if operation is None else RULES[operation.effect]
        found: L | list[L] = getattr(self, name, self.otherwise)(call)
        return found

    def otherwise(self, call: Call) -> L | list[L]:
        """The rule for operations that are not known, and for effects without a method."""
        return self.join(*map(self.labels.of, tree_leaves((call.args, call.kwargs))))

    def makes(self, call: Call) -> L | list[L]:
        """The rule for new tensors: what tells their values is what they depend on."""
        return self.join(*map(self.labels.of, self.read(call)))

    def read(self, call: Call) -> list[Any]:
        """The leaves of a call's arguments whose values matter to it; those written to do not."""
        operation: Any = call.operation
        leaves = tree_leaves((operation.read(call.args), call.kwargs))
        return [leaf for leaf in leaves if not any(leaf is target for target in call.written)]

    def is_constant(self, call: Call) -> bool:
        """Whether nothing that a call reads, or writes to, has a label."""
        is_new = call.effect is Effect.MAKES
        leaves = [*self.read(call), *call.written] if is_new else (call.args, call.kwargs)
        return not any(leaf in self.labels for leaf in tree_leaves(leaves))

    def seen(self, call: Call) -> Any:
        """Compute as usual, and label the results."""
        if self.is_constant(call):
            return self.compute(call, constant=True)
        call.result = self.compute(call)
        self._spread(call, self.label(call))
        return call.result

    def _spread(self, call: Call, label: L | list[L]) -> None:
        results = [leaf for leaf in tree_leaves(call.result) if isinstance(leaf, Tensor)]
        labels = label if isinstance(label, list) else [label] * max(len(results), 1)
        for tensor, own in zip(results, labels, strict=False):
            self.labels.make(tensor, own)
        for target in call.written:
            self.labels.write(target, self.join(*labels))
