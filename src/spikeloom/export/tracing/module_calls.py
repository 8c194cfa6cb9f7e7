"""What the calls of a model's modules say: which signals they receive, and at which steps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.export.forms.layers import layer_key
from spikeloom.export.tracing.feature_rows import labels_after, row_axes, rows_of
from spikeloom.export.tracing.leaf_modules import (
    altered,
    is_leaf,
    keeps_its_state,
    passes_on,
    resets_of,
)
from spikeloom.export.tracing.positions import Moved, Term, move
from spikeloom.export.tracing.record import REMEDY, STATE, Record, tensors_in
from spikeloom.export.tracing.signals import FOLD, OWN_MODULE, Signal, Site, state_of
from spikeloom.modules import circuit_of, methods_of, named_as, neuron_within, takes_steps

__all__ = ["Calls", "StepByStep"]


class StepByStep(Exception):
    """The model takes one step at each call."""


class Calls:
    """Lets every leaf of a model, and every module around leaves, report its calls.

    Args:
        record: Where it notes them.
        stepwise: Whether the model is called once for each step.
    """

    def __init__(self, record: Record, stepwise: bool) -> None:
        self.record, self.stepwise = record, stepwise
        self._altered: dict[str, tuple[str, str]] = {}

    def attach(self, model: nn.Module) -> None:
        """Wrap the methods of a model's modules."""
        known: set[int] = set()
        for name, module in model.named_modules():
            if id(module) in known:
                continue
            known.add(id(module))
            name = name or type(module).__name__
            if not is_leaf(module):
                owner = (name, type(module).__name__)
                self._wrap(module, "forward", functools.partial(self._container, owner))
                continue
            known.update(map(id, module.modules()))
            self._altered[name] = altered(module)
            leaf = functools.partial(self._leaf, name, module)
            for method, whole in methods_of(module).items():
                steps = takes_steps(module) if method == "forward" else not whole
                self._wrap(module, method, functools.partial(leaf, steps))
            if reset := resets_of(module):
                self._wrap(module, reset, functools.partial(self._reset, name))

    def _wrap(self, module: nn.Module, method: str, report: Callable[..., Any]) -> None:
        original = getattr(module, method)

        @named_as(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self.record.quiet:
                return original(*args, **kwargs)
            return report(original, args, kwargs)

        setattr(module, method, wrapped)

    def _container(self, owner: tuple[str, str], original: Any, args: Any, kwargs: Any) -> Any:
        self.record.path.append(owner)
        try:
            return original(*args, **kwargs)
        finally:
            self.record.path.pop()

    def _reset(self, name: str, original: Any, args: Any, kwargs: Any) -> Any:
        site = self.record.sites.get(name)
        if site is not None and 0 < site.steps < self.record.T:
            reason = f"is reset after {site.steps} of {self.record.T} steps"
            site.block(reason, "reset it before the sequence", derived=False)
        return original(*args, **kwargs)

    def _leaf(
        self,
        name: str,
        module: nn.Module,
        steps: bool | None,
        original: Any,
        args: Any,
        kwargs: Any,
    ) -> Any:
        record = self.record
        record.quiet = True
        try:
            given = tensors_in((args, kwargs))
            record.check(given)
            known_ones = record.followed(given)
            states = [t for t in known_ones if self._is_own(name, t)]
            back = [t for t in known_ones[1:] if self._returns(name, module, t)]
            inputs = [t for t in known_ones if not any(t is own for own in (*states, *back))]
            if not inputs and given and not bool(given[0].any()):
                # Feedback that has not begun: zeros stand for a signal that is yet to come.
                inputs = given[:1]
                record.put(inputs[0], Signal((), tuple(inputs[0].shape[1:])))
            known = self._input(module, steps, inputs)
            result = original(*args, **kwargs)
            outputs = tensors_in(result)
            if outputs:
                site = self._site(name, module)
                numbers = [t for t in given if t not in record]
                self._check_time(site, module, numbers, states, back)
                if isinstance(known, Moved):
                    self._record_moved(site, module, steps, inputs[0], known, outputs[0])
                else:
                    self._record(site, module, steps, inputs, outputs[0])
                self._tag_states(site, [y for y in outputs[1:] if y is not outputs[0]])
            return result
        finally:
            record.quiet = False

    def _is_own(self, name: str, tensor: Tensor) -> bool:
        """Whether a tensor is a neuron's own state, handed back to it."""
        return self.record.draft_of(tensor).sources == {state_of(name)}

    def _returns(self, name: str, module: nn.Module, tensor: Tensor) -> bool:
        """Whether a tensor is a part of a neuron's state that the neuron gave out as its output.

        Of a recurrent neuron it is what fired, of a leaky integrator the potential.
        """
        if self.record.draft_of(tensor).sources != {name}:
            return False
        neuron = neuron_within(module)
        return neuron is not None and neuron.inputs == 1

    def _input(self, module: nn.Module, steps: bool | None, inputs: list[Tensor]) -> Any:
        """What is known of a leaf's only input; None if it has several."""
        record = self.record
        if len(inputs) != 1:
            return None
        known = record.of(inputs[0])
        if isinstance(known, Moved):
            return known
        if steps and not self.stepwise and record.rank(inputs[0]) == 2:
            raise StepByStep
        if len(known.shape) > 1 and layer_key(module) == "Linear":  # mixes one axis of many
            lifted = record.lifted(inputs[0])
            return Moved(lifted.terms, "the layer") if lifted.terms else known
        return known

    def _site(self, name: str, module: nn.Module) -> Site:
        if name not in self.record.sites:
            kind = type(module).__name__
            self.record.sites[name] = site = Site(name, kind, module, (name, kind), (), ())
            if self._altered[name][0]:
                site.block(*self._altered[name], derived=False)
        return self.record.sites[name]

    def _check_time(
        self,
        site: Site,
        module: nn.Module,
        numbers: list[Tensor],
        states: list[Tensor],
        back: list[Tensor],
    ) -> None:
        """Each call must go on where the last one ended, the first one at rest."""
        if site.steps >= self.record.T and not passes_on(module):
            reason = f"is called again after all {site.steps} steps, so at several places"
            site.block(reason, OWN_MODULE, derived=False)
        neuron = neuron_within(module)
        if neuron is None or not neuron.rest:
            return
        if any(bool(state.any()) for state in numbers):
            site.block("does not begin at rest", "let it begin with zeros", derived=False)
        own, before = (state_of(site.name), site.steps), (site.name, site.steps - 1)
        handed = len(states) == site.states and bool(states or back) and not numbers
        handed = handed and self._all_are(own, states) and self._all_are(before, back)
        if site.steps and not handed and not keeps_its_state(module):
            reason = f"is back at rest after {site.steps} of {self.record.T} steps"
            remedy = "call it once for the sequence, or hand it the state that it returned"
            site.block(reason, remedy, derived=False)

    def _all_are(self, start: tuple[str, int], tensors: list[Tensor]) -> bool:
        """Whether tensors carry what a site gave out at one step, and nothing else."""
        known = map(self.record.draft_of, tensors)
        return all(isinstance(one, Signal) and one.starts == (start,) for one in known)

    def _record(
        self,
        site: Site,
        module: nn.Module,
        steps: bool | None,
        inputs: list[Tensor],
        y: Tensor,
    ) -> None:
        """A call with one plain signal, or with several, or none."""
        record = self.record
        x = (inputs or [y])[0]
        signal = record.of(x) if len(inputs) == 1 else Signal((), tuple(x.shape[1:]))
        rank = x.dim() - len(signal.shape)
        shape = tuple(y.shape[rank:])
        if not site.steps:
            site.shape_in, site.shape_out = signal.shape, shape
        if len(inputs) == 1:
            _check_call(site, signal, steps, x, y)
        else:
            site.block(
                f"takes {len(inputs)} signals that come from the model's input",
                "a NIR node has one input, which sums its sources",
            )
            others = [s for t in inputs for s in record.draft_of(t).sources]
            signal = Signal(tuple((name, site.steps) for name in others), signal.shape)
        if (site.shape_in, site.shape_out) != (signal.shape, shape) or site.wires:
            site.block("sees inputs of different shapes", "use one module for each place")
        start = site.hear(signal.starts, record.steps_in(x, signal.shape))
        self._keep(site, module, x, y)
        record.put(y, Signal.of(site.name, start, shape))

    def _record_moved(
        self,
        site: Site,
        module: nn.Module,
        steps: bool | None,
        x: Tensor,
        moved: Moved,
        y: Tensor,
    ) -> None:
        """A call of a leaf whose input's axes were moved, or one that acts on one of several."""
        record, axes = self.record, row_axes(module)
        if passes_on(module):
            if not site.steps:
                record.sites.pop(site.name)
            record.passing[site.name] = None
            (turned,) = move(torch.Tensor.reshape, (moved, y.shape), {}, "reshape")
            record.put(y, turned)
            return
        if site.steps and not site.wires:
            site.block("sees inputs of different order", "use one module for each")
        if circuit_of(module) is not None:
            site.block("is recurrent and receives features whose axes were moved", FOLD)
        if neuron_within(module) is not None:
            rows = rows_of(moved, (), record.B)
            record.receive(site, moved, rows, tuple(x.shape[1 if steps else 2 :]))
            start = site.hear(rows.starts, rows.steps)
            self._keep(site, module, x, y)
            record.put(y, Signal.of(site.name, start, site.shape_out))
        elif axes is None:
            site.block("scales or normalises features whose axes were moved", FOLD, derived=False)
            site.hear([(source, site.steps) for source in moved.sources], record.T)
            record.put(y, Signal.of(site.name, 0, tuple(y.shape[1:])))
        else:
            self._transform(site, moved, axes, x, y)

    def _transform(
        self, site: Site, moved: Moved, axes: tuple[int, ...], x: Tensor, y: Tensor
    ) -> None:
        """Note how moved features reach a linear layer, and what its output carries."""
        record = self.record
        rows = rows_of(moved, axes, record.B)
        if rows.problem:
            site.block(f"{rows.problem}, by the function {moved.by}", REMEDY)
            site.hear(rows.starts, record.T)
            record.put(y, Signal.of(site.name, 0, tuple(y.shape[1:])))
            return
        size = y.numel() // (rows.steps * record.B)
        record.wire(site, rows.wires, tuple(x.shape[axis] for axis in axes), (size,))
        start = site.hear(rows.starts, rows.steps)
        term = Term(site.name, size, labels_after(rows, start, y, axes))
        record.put(y, record.settled(Moved((term,), moved.by)))

    @staticmethod
    def _keep(site: Site, module: nn.Module, x: Tensor, y: Tensor) -> None:
        """Remember what a neuron received and fired, to compare the graph with it."""
        if neuron_within(module) is not None:
            site.inputs.append(x.detach())
            site.outputs.append(y.detach())

    def _tag_states(self, site: Site, states: list[Tensor]) -> None:
        """Know a neuron's state again, as of the step that the neuron has reached."""
        site.states = len(states)
        own = state_of(site.name)
        for state in states:
            shape = tuple(state.shape)
            if own not in self.record.sites:
                place = Site(own, STATE, None, site.owner, shape, shape, {site.name: 0})
                place.block(
                    "a neuron's state leaves the neuron", "NIR neurons give out their spikes only"
                )
                self.record.sites[own] = place
            self.record.put(state, Signal.of(own, site.steps, shape))


def _check_call(site: Site, signal: Signal, steps: bool | None, x: Tensor, y: Tensor) -> None:
    """Refuse a call that a NIR node would answer otherwise."""
    rank = x.dim() - len(signal.shape)
    if y.shape[:rank] != x.shape[:rank]:
        site.block(
            f"changes the time or batch axis, {list(x.shape)} -> {list(y.shape)}",
            "keep [T, batch] or [batch] in front",
        )
    if steps is False and rank == 1:
        site.block("is time first and received a single step", "feed it [T, batch, *]")
    if not signal.starts and bool(y.any()):
        reason = "answers to feedback that has not begun, which NIR's does not"
        site.block(reason, "use bias=False on its way", derived=False)
    if signal.readout:
        site.block(f"follows a {signal.readout}", "reduce over time after the last module")
