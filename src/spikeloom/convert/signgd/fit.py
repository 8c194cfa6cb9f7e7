"""Fitting a conversion to calibration data: what each node reaches, and the steps it takes there.

One pass over the plain network tells each node's reach, and a few others how much the steps of the
nodes before a node disturb it, and so how much later its own have to shrink. Three numbers are left
open for the whole network. What is expected of them is known beforehand; where there are two
samples or more, half of them are fitted to and the others, unseen, decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import product, starmap
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spikeloom.convert.signgd.calls import Calls
from spikeloom.convert.signgd.data import Data, off_by, squared_error
from spikeloom.convert.signgd.disturbance import Disturbance, disturbance
from spikeloom.convert.signgd.effort import affordable, operations
from spikeloom.convert.signgd.entry import Entry
from spikeloom.convert.signgd.graph import Captured
from spikeloom.convert.signgd.network import SignGDNetwork
from spikeloom.convert.signgd.operators import Plan, Site
from spikeloom.convert.signgd.portions import (
    are_independent,
    head,
    joined,
    length,
    portion_size,
    portions,
)
from spikeloom.convert.signgd.reach import parts, reaches
from spikeloom.convert.signgd.sampling import halves, spread
from spikeloom.convert.signgd.search import GRID, Setting, best_setting
from spikeloom.convert.signgd.settling import (
    SETTLED,
    expected_error,
    settling_times,
    unseen_loss,
    usual_settings,
)
from spikeloom.convert.signgd.time import Machine
from spikeloom.kernel.call import run
from spikeloom.kernel.neuron import Parameter, PerStep
from spikeloom.neurons.schedules import Constant, Exponential, Schedule
from spikeloom.neurons.signgd import SignTracker, step_sizes

if TYPE_CHECKING:
    from spikeloom.convert.signgd.recipe import SignGD

__all__ = ["Fit"]

# Portions of a batch that a setting is tried on. Few channels may be what fails, on few samples.
TRIED = 24
# Samples that one is tried on at least, however large they are.
FEWEST = 4
# So many tell more, half of them unseen, than what is expected of networks of all kinds.
TELLING = 16
# Samples of which either half is tried on; of more, only one.
MANY = 64

# The settings that a search begins at, of those of which little error is expected.
STARTS = 4
# How many of these it tries once more, with nodes that wait for their channel that feels most.
EXTREME_STARTS = 2
# Up to as many steps little can be repaired, and errors have many local minima: more are tried.
SHORT = 8
SHORT_STARTS = list(starmap(Setting, product((0.8, 1.0, 1.5, 2.5), (0.6, 0.7, 0.8), (0.0, 1.0))))

# Portions of a batch on which an expectation is tried, and samples at most,
CHECKED, MOST_CHECKED = 8, 32
# how many times as large an error still meets it, and is about the same,
MET = 2.0
# and how many settings are tried before the network is said to settle in no known time.
PATIENCE = 8

# The step sizes of a node, and its scale.
Steps = tuple[Schedule, float | Tensor]


class Fit:
    """One conversion: what the calibration data say, and what follows from it.

    Args:
        recipe: The user's settings.
        captured: The graph.
        plan: Its nodes.
        calls: The calibration data.
    """

    def __init__(self, recipe: SignGD, captured: Captured, plan: Plan, calls: Calls) -> None:
        self.recipe, self.captured, self.plan, self.calls = recipe, captured, plan, calls
        self._trackers: dict[tuple[str, int], SignTracker] = {}
        self.ann = Machine(captured.module, plan, over_time=False)
        self.timed = Machine(captured.module, plan, over_time=True)
        self.data, self.portion = self._samples()
        self.samples = calls.count()
        whole = operations(lambda: self._plain(self.data.inputs))
        self.operations = whole // max(1, length(self.data.inputs))
        self.reaches = self._reaches(calls)
        self.basis = Basis(self.ann, self._few(self.data), self.reaches)

    def network(self) -> SignGDNetwork:
        """The converted network."""
        steps = self._schedules(self.basis, self._setting(), self.recipe.steps)
        nodes = self.captured.module.graph.nodes
        names = [str(node.target) for node in nodes if node.op == "placeholder"]
        return SignGDNetwork(
            self.captured,
            self.plan,
            {name: schedule for name, (schedule, _) in steps.items()},
            self.recipe.steps,
            {name: scale for name, (_, scale) in steps.items()},
            self.recipe.make,
            self.portion,
            Entry(names, self.calls.largest()),
        )

    def steps_needed(self) -> int | None:
        """The steps after which fitted schedules are off by 1 % of the outputs' spread, about.

        None for a given schedule, or if no setting that was tried gets there.
        """
        if self.recipe.schedule is not None:
            return None
        for steps, setting in settling_times(self.basis.moved)[:PATIENCE]:
            if self._off(setting, steps) <= MET * SETTLED:
                return steps
        return None

    def _setting(self) -> Setting:
        """The open numbers: as given, as searched, or those of which least error is expected."""
        recipe = self.recipe
        starts = self._starts()
        fixed = {"decay", "caution", "extreme"} if recipe.schedule is not None else set[str]()
        if recipe.margin is not None:
            starts = list(dict.fromkeys(replace(start, margin=recipe.margin) for start in starts))
            fixed.add("margin")
        if recipe.schedule is not None and recipe.scale is not None:
            fixed.add("margin")
        count = length(self.data.inputs)
        if self.portion is None or count < 2:
            return starts[0]  # nothing is unseen: whatever is chosen would be fitted to too little
        if fixed >= set(GRID):
            return starts[0]
        tells = 2 if recipe.steps <= SHORT else TELLING
        if not fixed and not (recipe.search and min(count, self._affordable()) >= tells):
            return self._as_expected(starts)
        if not recipe.search:
            return starts[0]
        one, other = (self._data(half) for half in halves(self.data.inputs))
        # Each half is unseen once; of many samples, one half tells enough.
        folds = [(one, other), (other, one)][: 2 if count <= MANY else 1]
        trials = [
            (Basis(self.ann, self._few(shown), self._reaches(_only(shown))), self._few(unseen))
            for shown, unseen in folds
        ]

        tried = sum(length(unseen.inputs) for _, unseen in trials)

        def error(setting: Setting, limit: float) -> float:
            found = unseen_loss(setting.margin, tried)
            for basis, unseen in trials:
                steps = self._schedules(basis, setting, recipe.steps)
                for part in self._errors(steps, unseen):
                    found += part / len(trials)
                    if found >= limit:
                        return found
            return found

        return best_setting(starts, fixed, error, progress=recipe.progress)

    def _starts(self) -> list[Setting]:
        """Where a search begins; the first is what is expected to be best."""
        steps = self.recipe.steps
        if self.recipe.schedule is not None:
            return [Setting(1.0 if steps <= SHORT else 1.5 if steps <= 24 else 2.5, 1.0, 0.0)]
        usual = usual_settings(self.basis.moved, steps)[:STARTS]
        usual += [replace(start, extreme=1.0) for start in usual[:EXTREME_STARTS]]
        return usual + SHORT_STARTS if steps <= SHORT else usual

    def _as_expected(self, settings: Sequence[Setting]) -> Setting:
        """The first setting, unless on a few samples another one does far better.

        Others are only tried if it does far worse than is expected of it. Smaller differences are
        chance: a rare sample may be off by ten times as much as most.
        """
        steps, errors = self.recipe.steps, dict[Setting, float]()
        for setting in settings[: STARTS + EXTREME_STARTS]:
            expected = expected_error(setting, self.basis.moved, steps)
            errors[setting] = self._off(setting, steps)
            if errors[setting] <= MET * max(expected, SETTLED):
                break
        first, best = settings[0], min(errors, key=errors.__getitem__)
        return best if MET * errors[best] < errors[first] else first

    def _off(self, setting: Setting, steps: int) -> float:
        """How far off the outputs are after so many steps, on a few samples."""
        few = self.data
        if self.portion is not None:
            count = min(MOST_CHECKED, CHECKED * self.portion, self._affordable(steps))
            few = self._data(head(self.data.inputs, max(FEWEST, count)))
        schedules = self._schedules(self.basis, setting, steps)
        size = self.portion and max(1, self.portion * self.recipe.steps // steps)
        parts = [self._last(part, schedules, steps) for part in portions(few.inputs, size)]
        found = map(joined, zip(*parts, strict=True))
        leaves = zip(found, few.outputs, self.timed.timed_outputs(), strict=True)
        errors = [off_by(y, exact) for y, exact, moves in leaves if moves]
        return math.inf if any(map(math.isnan, errors)) else max(errors, default=0.0)

    def _affordable(self, steps: int | None = None) -> int:
        """How many samples every setting can be tried on, with so many steps or the recipe's."""
        return affordable(self.operations, steps or self.recipe.steps)

    def _few(self, data: Data) -> Data:
        """As many samples as a trial takes."""
        if self.portion is None:
            return data
        count = max(FEWEST, min(TRIED * self.portion, self._affordable() // 2))
        return data if length(data.inputs) <= count else self._data(spread([data.inputs], count))

    def _schedules(self, basis: Basis, setting: Setting, steps: int) -> dict[str, Steps]:
        """The steps of every node, and its scale."""
        recipe = self.recipe
        scales = {site.name: self._scale(site, basis.reach[site.name]) for site in self.plan.sites}
        if recipe.schedule is not None:
            whole = recipe.schedule.reach(steps)
            if recipe.scale is None:
                scales = {name: setting.margin * scale / whole for name, scale in scales.items()}
            return {name: (recipe.schedule, scale) for name, scale in scales.items()}
        factors = basis.disturbance(setting.caution, setting.extreme).factors
        return {
            name: (settled_later(factors[name], setting, steps), scale)
            for name, scale in scales.items()
        }

    def _scale(self, site: Site, reach: Tensor) -> float | Tensor:
        if self.recipe.scale == "published":
            return reach if site.operator == "relu" else 1.0
        return reach if self.recipe.scale is None else float(self.recipe.scale)

    def _track(self, site: Site, target: Tensor, steps: Steps) -> Tensor:
        """The estimates ``[T, *]`` of a node."""
        schedule, scale = steps
        given = self.reaches[site.name]
        params: dict[str, Parameter] = {
            "eta": PerStep(step_sizes(schedule, len(target)).to(given)),
            "scale": torch.as_tensor(scale).to(given).expand_as(given),
        }
        estimates, _ = run(self._tracker(site.name, len(target)), target, params=params)
        return estimates

    def _tracker(self, name: str, steps: int) -> SignTracker:
        """A node's tracker for so many steps, made once."""
        if (name, steps) not in self._trackers:
            site, reach = self.timed.sites[name], self.reaches[name]
            tracker = SignTracker(
                Constant(1.0), steps, reach, site.strict, undefined=site.is_partial
            )
            self._trackers[name, steps] = tracker
        return self._trackers[name, steps]

    def _last(self, inputs: Sequence[Any], schedules: dict[str, Steps], steps: int) -> list[Any]:
        """The flat outputs after the last of so many steps."""

        def at_site(site: Site, operands: Any, compute: Callable[[], Tensor]) -> Tensor:
            target = compute()
            if not self.timed.reads_time(site.name):
                target = target.expand(steps, *target.shape)
            return self._track(site, target, schedules[site.name])

        outputs = self.timed(inputs, at_site)
        moving = self.timed.timed_outputs()
        return [y[-1] if moves else y for y, moves in zip(outputs, moving, strict=True)]

    def _errors(self, schedules: dict[str, Steps], data: Data) -> Iterator[float]:
        """What each portion adds to the relative squared error of the last outputs."""
        parts = portions(data.inputs, self.portion)
        wanted = portions(data.outputs, self.portion)
        moving = self.timed.timed_outputs()
        for inputs, exact in zip(parts, wanted, strict=True):
            found = self._last(inputs, schedules, self.recipe.steps)
            leaves = zip(found, exact, data.outputs, moving, strict=True)
            errors = [squared_error(y, own, whole) for y, own, whole, moves in leaves if moves]
            yield sum(errors) / max(1, len(errors))

    def _plain(self, inputs: list[Any]) -> list[Any]:
        """The flat outputs of the plain network."""
        return self.ann(inputs, lambda site, operands, compute: compute())

    def _data(self, inputs: list[Any]) -> Data:
        exact: dict[str, Tensor] = {}

        def remember(site: Site, operands: Any, compute: Callable[[], Tensor]) -> Tensor:
            exact[site.name] = value = compute()
            return value

        outputs = self.ann(inputs, remember)
        return Data(inputs, exact, outputs)

    def _samples(self) -> tuple[Data, int | None]:
        """Samples of all calls, and how many the network runs at once.

        If samples see each other, it is those of the first call, and None.
        """
        calls, count = self.calls, self.recipe.samples
        if calls.have_one_length():
            data = self._data(calls.spread(count))
            if are_independent(self._plain, data.inputs, data.outputs):
                graph = self.captured.module.graph
                return data, portion_size(graph, self.plan, self.recipe.steps)
        return self._data(head(calls.first, count)), None

    def _reaches(self, calls: Calls) -> dict[str, Tensor]:
        per = parts(self.recipe.per, self.samples)
        return reaches(self.ann, calls, self.recipe.quantile, per)


class Basis:
    """What schedules follow from.

    Args:
        ann: The plain network.
        data: Samples.
        reach: The largest magnitude of each node.
    """

    def __init__(self, ann: Machine, data: Data, reach: dict[str, Tensor]) -> None:
        self.reach = reach
        self._found = cache(
            lambda caution, extreme: disturbance(
                ann, data, reach, caution, by_channel=bool(extreme)
            )
        )

    def disturbance(self, caution: float, extreme: float) -> Disturbance:
        """What the steps of nodes do to those behind them; each pair takes a few passes."""
        return self._found(caution, extreme)

    def moved(self, caution: float, extreme: float) -> float:
        """How far the outputs move."""
        return self.disturbance(caution, extreme).output


def settled_later(factor: float, setting: Setting, steps: int) -> Exponential:
    """Steps that are some factor larger than a first node's, once they shrink.

    Args:
        factor: How much larger.
        setting: Of the whole network.
        steps: T; no node keeps its first step for longer.
    """
    hold = round(math.log(factor) / -math.log(setting.decay))
    return Exponential(setting.margin * (1.0 - setting.decay), setting.decay, min(hold, steps))


def _only(data: Data) -> Calls:
    """Samples that all processes have, for all that there are."""
    return Calls([data.inputs], data.inputs, are_shared=False)
