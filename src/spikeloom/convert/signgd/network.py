"""The converted network as a module."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from operator import index
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from spikeloom.convert.signgd.entry import Entry
from spikeloom.convert.signgd.graph import Captured
from spikeloom.convert.signgd.layers import layers_of
from spikeloom.convert.signgd.operators import Plan, Site
from spikeloom.convert.signgd.portions import joined, portions
from spikeloom.convert.signgd.time import Machine
from spikeloom.convert.signgd.tracker import Tracker
from spikeloom.convert.signgd.watch import Watch
from spikeloom.hosted import Make, made, spikes_from_rest
from spikeloom.neurons.schedules import Schedule
from spikeloom.neurons.signgd import LONGEST, SignGD, SignTracker
from spikeloom.neurons.signgd_functions import FUNCTIONS, Function
from spikeloom.report import Report

__all__ = ["SignGDNetwork", "beyond_reach", "finite", "neuron_of"]

# Functions whose results do not depend on where they are computed.
EXACT = frozenset({"relu", "leaky_relu", "abs"})
# Sees a site and the estimates that it sends, [T, batch, *].
Observe = Callable[[Site, Tensor], None]


class SignGDNetwork(nn.Module):
    """A network of sign gradient descent neurons, made by :class:`spikeloom.convert.SignGD`.

    Called like the model it was made from, it returns what the model returns, decoded after
    ``steps`` steps. Every call starts at rest. Real inputs enter as constant currents.

    A value that changes with time has the time axis in front: what affine operators and functions
    make of it is computed for all steps at once, layer by layer, and only the sign trackers run
    in order, in the shared kernel.

    Attributes:
        steps: T.
        schedules: The step sizes of each node, by name.
        scales: The scale of each node, by name.
        measured: The report on calibration data.
        steps_needed: After how many steps the outputs are expected to be off by 1 % of their
            spread, with fitted steps, tried on a few calibration samples; None with a given
            schedule, or if no number of steps was found.
        watch: Counts values beyond reach.
        operators: The graph, with the model's tensors.
        plan: Which of them are nodes.
        captured: How arguments and results are laid out.
        portion: How many samples are run at once on a CPU; None for all.
        is_by_sample: Whether each sample is known to come out the same without the others.
        entry: What looks at the arguments of a call; None for nothing.
    """

    def __init__(
        self,
        captured: Captured,
        plan: Plan,
        schedules: dict[str, Schedule],
        steps: int,
        scales: dict[str, float | Tensor],
        make: Make | None = None,
        portion: int | None = None,
        entry: Entry | None = None,
    ) -> None:
        super().__init__()
        self.steps, self.schedules, self.scales = steps, schedules, scales
        self.portion, self.entry = portion, entry
        self.is_by_sample = portion is not None
        self.steps_needed: int | None = None
        self.measured = Report("signGD conversion", ("node",))
        self.watch = Watch(plan.sites)
        self.operators = captured.module
        self.nodes = nn.ModuleDict()
        self.captured, self.plan = captured, plan
        for site in plan.sites:
            if make is None:
                self.nodes[site.name] = Tracker(self._tracker(site, _own_function(site)), steps)
            else:
                schedule, scale = schedules[site.name], scales[site.name]
                self.nodes[site.name] = _Increments(site, schedule, scale, make, steps)
        self._machine = Machine(self.operators, plan, over_time=True)

    @property
    def report(self) -> Report:
        """What became of every operator, how well, and what share was beyond reach in use."""
        calibrated = self.measured
        report = Report(calibrated.title, (*calibrated.columns, "beyond"))
        for row, share in zip(calibrated.rows, self.watch.shares(), strict=True):
            report.add(*row, share)
        report.notes += [
            *calibrated.notes,
            "beyond: share of the values of all calls since the conversion that were beyond reach.",
        ]
        return report

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what is made anew from it."""
        return {name: value for name, value in self.__dict__.items() if name != "_machine"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._machine = Machine(self.operators, self.plan, over_time=True)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SignGDNetwork:
        """Moves and conversions reach what is no parameter: scales, and what inputs look like."""
        super()._apply(fn, recurse)
        example = pytree.tree_map_only(Tensor, fn, self.captured.example)
        self.captured = replace(self.captured, example=example)
        self.scales = pytree.tree_map_only(Tensor, fn, self.scales)
        return self

    def forward(self, *args: Any, at: int | Iterable[int] | None = None, **kwargs: Any) -> Any:
        """The decoded output after the last step, after another one, or after several.

        Args:
            args: As for the original model.
            at: A step, from 1 to ``steps``; or several, and a list of outputs comes back, one for
                each.
            kwargs: As for the original model.

        Raises:
            TypeError: If an argument has another type or dtype than in the calibration batches.
            ValueError: If one has another shape, holds NaN, or infinity where calibration had
                none; or if a step does not exist.

        Warns:
            UserWarning: Once, if an argument exceeds what calibration showed by a quarter; and
                once, if a node cuts more of its values than in calibration, by 1 % of them.
        """
        steps = self._moments(at)
        flat = self.captured.flatten(args, kwargs)
        if self.entry is not None:
            self.entry.check(flat)
        moments = self.decode(flat, steps)
        if self.measured.rows:
            self.watch.warn(self.measured.column("saturated"))
        results = [self.captured.restored(leaves) for leaves in moments]
        return results if isinstance(at, Iterable) else results[0]

    def _moments(self, at: int | Iterable[int] | None) -> list[int]:
        """The steps whose outputs are asked for."""
        if at is None:
            return [self.steps]
        steps = list(at) if isinstance(at, Iterable) else [at]
        for t in steps:
            if isinstance(t, bool) or not hasattr(t, "__index__") or not 1 <= t <= self.steps:
                raise ValueError(
                    f"at: steps go from 1 to {self.steps}, got {t!r}; convert with more steps"
                )
        return [index(t) for t in steps]

    def decode(self, inputs: Sequence[Any], at: Sequence[int]) -> list[list[Any]]:
        """The flat outputs after each of some steps; a large batch is run in portions.

        Args:
            inputs: The arguments of a call as a flat list.
            at: The steps.
        """
        parts = [self._at(self.run(part), at) for part in portions(inputs, self.portion)]
        moments = zip(*parts, strict=True)
        return [[joined(leaf) for leaf in zip(*moment, strict=True)] for moment in moments]

    def run(self, inputs: Sequence[Any], observe: Observe | None = None) -> list[Any]:
        """All steps of a call whose arguments are a flat list.

        Args:
            inputs: The arguments.
            observe: Called with every node and the estimates it sends, ``[T, batch, *]``.

        Returns:
            The flat outputs; those that change with time as ``[T, batch, *]``.
        """

        def at_site(site: Site, operands: tuple[Any, ...], compute: Callable[[], Tensor]) -> Tensor:
            node: Any = self.nodes[site.name]
            drive = operands[0] if node.reads_operand else compute()
            if not self._machine.reads_time(site.name):
                drive = drive.expand(self.steps, *drive.shape)
            self.watch.see(site.name, node.target(drive[-1]), node.reach)
            sent = node(drive)
            if observe is not None:
                observe(site, sent)
            return sent

        return self._machine(inputs, at_site)

    def as_layers(self) -> nn.Module:
        """The same network as torch layers and neurons, under the names of the model's modules.

        What ``export.to_nir`` writes. It takes ``[T, batch, *]``, T being :attr:`steps`, and
        returns the output after every step; of an input that stays the same, as the network's
        own, the last is what the network returns. Its values are the estimates themselves, so a
        bias is added at every step, as the model has it. The layers have the network's own weights:
        what is written into them, as by ``compress.prune``, changes both.

        Raises:
            ValueError: If the model takes or returns more than one tensor, or its samples see each
                other, or a single calibration sample leaves open whether they do.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> from spikeloom import convert
            >>> ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
            >>> x = torch.randn(16, 4)
            >>> snn = convert.SignGD(steps=8).apply(ann, x)
            >>> y = snn.as_layers()(x.expand(8, 16, 4))
            >>> bool((y[-1] - snn(x)).abs().max() < 1e-5)
            True
        """
        if not self.is_by_sample:
            raise ValueError(
                "model: its samples see each other, or calibration had a single one, which leaves "
                "that open; layers take time and batch as one axis, so samples must come out the "
                "same alone. Calibrate with two samples or more, or use the network itself"
            )

        def tracker(site: Site, function: str) -> SignTracker:
            scale = self.scales[site.name]
            if isinstance(scale, Tensor):
                # Of one sample, without the axes of the batch.
                scale = scale.reshape([n for i, n in enumerate(scale.shape) if i not in site.batch])
            return self._tracker(site, function, scale)

        return layers_of(self.captured, self.plan, tracker).train(self.training)

    def over_time(self, x: Any) -> Any:
        """What :meth:`as_layers` takes, of what the network takes: ``x`` at every step.

        Args:
            x: ``[batch, *]``; anything else is returned as it is.
        """
        tensors = [value for value in self.captured.example if isinstance(value, Tensor)]
        is_one = isinstance(x, Tensor) and len(tensors) == 1
        if not is_one or x.shape[1:] != tensors[0].shape[1:]:
            return x
        return x.expand(self.steps, *x.shape)

    def timed_outputs(self) -> list[bool]:
        """For each flat output, whether it changes with time."""
        return self._machine.timed_outputs()

    def _tracker(
        self, site: Site, function: str, scale: float | Tensor | None = None
    ) -> SignTracker:
        """What tracks a site, given the function that it computes of its input."""
        scale = self.scales[site.name] if scale is None else scale
        constants = {} if function == "identity" else site.constants
        schedule = self.schedules[site.name]
        return SignTracker(
            schedule,
            self.steps,
            scale,
            site.strict,
            function,
            undefined=site.is_partial,
            **constants,
        )

    def last_of(self, outputs: list[Any]) -> list[Any]:
        """Flat outputs of a run as they are after the last step."""
        (last,) = self._at(outputs, [self.steps])
        return last

    def _at(self, outputs: list[Any], steps: Sequence[int]) -> list[list[Any]]:
        """The flat outputs as they are after each of these steps."""
        pairs = list(zip(outputs, self.timed_outputs(), strict=True))
        return [[value[t - 1] if moves else value for value, moves in pairs] for t in steps]

    def extra_repr(self) -> str:
        """Steps and neurons."""
        return f"steps={self.steps}"


def neuron_of(site: Site, schedule: Schedule, scale: float | Tensor) -> tuple[SignGD, bool]:
    """The neuron that stands for a node in increment form.

    Args:
        site: The node.
        schedule: Its step sizes.
        scale: Its scale.

    Returns:
        The neuron, and whether it reads the operator's operand and computes the function itself;
        if not, it reads the operator's value and tracks it.
    """
    if site.function is not None and site.reads_operand:
        return SignGD(site.function, schedule, scale, **site.constants), True
    identity = Function("identity", FUNCTIONS["identity"].value, site.strict)
    return SignGD(identity, schedule, scale), False


def beyond_reach(site: Site, schedule: Schedule, scale: float | Tensor) -> float | None:
    """A value above all estimates of a node, if its target may be undefined; None if it may not.

    Args:
        site: The node.
        schedule: Its step sizes.
        scale: Its scale.
    """
    if not site.is_partial:
        return None
    return 2.0 * float(torch.as_tensor(scale).max()) * schedule.reach(LONGEST)


def finite(drive: Tensor, reads_operand: bool, beyond: float | None) -> Tensor:
    """What a neuron reads, without infinities, which have no increments.

    Args:
        drive: An operand, or a target.
        reads_operand: Whether it is an operand. An infinity in it, such as that of a mask, becomes
            the largest number that can be taken off again; NaN stays, to be refused.
        beyond: Where a target that may be undefined or infinite is looked for then; None if it
            may not, so that both are refused.
    """
    if reads_operand:
        most = torch.finfo(drive.dtype).max / 4
        return drive.nan_to_num(math.nan, most, -most)
    return drive if beyond is None else drive.nan_to_num(beyond, beyond, -beyond)


class _Increments(nn.Module):
    """A host's neuron, which speaks in increments, between values that are their sums."""

    def __init__(
        self, site: Site, schedule: Schedule, scale: float | Tensor, make: Make, steps: int
    ) -> None:
        super().__init__()
        neuron, self.reads_operand = neuron_of(site, schedule, scale)
        self.node, self.function = made(make, neuron), neuron.function
        self.beyond = beyond_reach(site, schedule, scale)
        reach = torch.as_tensor(scale) * schedule.reach(steps)
        self.register_buffer("reach", reach, persistent=False)

    def target(self, x: Tensor) -> Tensor:
        """What it follows, of what it reads."""
        found: Tensor = self.function.value(x)
        return found

    def forward(self, drive: Tensor) -> Tensor:
        """Sums in, sums out; from rest."""
        drive = finite(drive, self.reads_operand, self.beyond)
        increments = torch.diff(drive, dim=0, prepend=torch.zeros_like(drive[:1]))
        return spikes_from_rest(self.node, increments).cumsum(0)


def _own_function(site: Site) -> str:
    """The function that a tracker computes itself; what rounds would round apart from torch's."""
    return site.function if site.function in EXACT else "identity"
