"""signGD conversion: networks beyond ReLU, without retraining."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from tqdm import tqdm

from spikeloom.calibrate import Batch, batch_quantile, batches
from spikeloom.convert.signgd.decompose import decompose_operators
from spikeloom.convert.signgd.entry import Entry
from spikeloom.convert.signgd.graph import Captured, capture
from spikeloom.convert.signgd.network import SignGDNetwork
from spikeloom.convert.signgd.operators import Plan, Site, classify
from spikeloom.convert.signgd.portions import are_independent, joined, portion_size, portions
from spikeloom.convert.signgd.time import Machine
from spikeloom.hosted import Make
from spikeloom.neurons.schedules import Exponential, Schedule, as_schedule
from spikeloom.report import Report

__all__ = ["SignGD"]

DECAYS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
HOLDS = (0.0, 0.25, 0.5, 0.75)
MARGINS = (0.85, 1.0, 1.2)
# A neuron that is silent on the calibration data may not be so later.
LEAST_SHARE = 0.05
COLUMNS = ("node", "operator", "as", "reach", "saturated", "residual", "ones", "spikes")


class SignGD:
    """Convert a trained network to sign gradient descent neurons.

    Affine operators (linear, convolution, average pooling, residual addition, concatenation,
    reshaping ...) stay; a batch norm after a convolution or linear layer is folded into it. Every
    other operator becomes a node that tracks its value with one bit a step, whether the model
    calls it as a module, a function or a method. An operator that is neither is refused by name
    and place, so nothing is silently wrong.

    Each neuron's reach is fitted to the calibration data, because a value beyond it saturates. The
    schedule is fitted too, for the given number of steps: with ``schedule="auto"`` deeper nodes
    keep their steps large for longer, until the nodes before them have settled.

    Args:
        steps: T. An output can be read after any of them.
        schedule: ``"auto"``, or one for all nodes: :class:`~spikeloom.neurons.Exponential`,
            :class:`~spikeloom.neurons.Inverse`, :class:`~spikeloom.neurons.Constant` or step sizes.
        decompose: False: max-pooling, normalisation, softmax and attention products are tracked
            whole, by one node each. True: they become the published chains of elementary nodes
            (maximum, square, exp, multiply, divide, a / sqrt(b)), which need more steps.
        make: Builds a host's module from a neuron description, such as
            ``spikeloom.plugins.spikingjelly.make``; None runs the fast path.
        quantile: Share of the calibration values that must lie within reach; 1 takes the largest.
        margin: Reach as a factor of that share; None fits it too. At few steps a finer resolution
            is worth some saturation.
        per: ``"neuron"`` fits the reach of each neuron, ``"node"`` one for the whole operator.
        scale: Every neuron's scale, instead of a fit. ``"published"`` is that of the published
            code: the largest calibration value for each ReLU neuron, 1 for all others.
        samples: How many of the first calibration batch schedules and margin are chosen on, and
            the report is made of; all steps of as many are in memory at once.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikeloom import convert
        >>> _ = torch.manual_seed(0)
        >>> ann = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3))
        >>> x = torch.randn(64, 8)
        >>> snn = convert.SignGD(steps=32).apply(ann, x)
        >>> bool((snn(x) - ann(x)).abs().max() < 0.01)
        True
        >>> [len(y) for y in snn(x, at=[8, 32])]
        [64, 64]

    Source: Oh & Lee, "Sign Gradient Descent-based Neuronal Dynamics: ANN-to-SNN Conversion Beyond
    ReLU Network", ICML 2024. Fitted reach, fitted schedules and whole-operator nodes are ours.
    """

    def __init__(
        self,
        steps: int = 16,
        schedule: Schedule | Sequence[float] | str = "auto",
        decompose: bool = False,
        make: Make | None = None,
        *,
        quantile: float = 1.0,
        margin: float | None = None,
        per: str = "neuron",
        scale: float | str | None = None,
        samples: int = 256,
    ) -> None:
        for name, count in (("steps", steps), ("samples", samples)):
            if isinstance(count, bool) or not isinstance(count, int):
                raise TypeError(f"{name}: must be an int, got {count!r}")
            if count < 1:
                raise ValueError(f"{name}: must be at least 1, got {count}")
        if isinstance(schedule, str) and schedule != "auto":
            raise ValueError(f"schedule: must be 'auto' or a schedule, got {schedule!r}")
        if per not in ("neuron", "node"):
            raise ValueError(f"per: must be 'neuron' or 'node', got {per!r}")
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile: must lie in (0, 1], got {quantile}")
        if make is not None and not callable(make):
            raise TypeError(
                f"make: must be a function such as plugins.<host>.make, or None, got {make!r}"
            )
        for name, value in (("margin", margin), ("scale", scale)):
            if value is not None and value != "published" and not _is_positive(value):
                raise ValueError(f"{name}: must be positive and finite, got {value!r}")
        self.steps, self.decompose, self.make = steps, bool(decompose), make
        self.samples = samples
        self.schedule = None if isinstance(schedule, str) else as_schedule(schedule)
        self.quantile, self.margin, self.per, self.scale = quantile, margin, per, scale

    def __repr__(self) -> str:
        """The arguments that are not the defaults."""
        own = {**vars(self), "schedule": "auto" if self.schedule is None else self.schedule}
        given = [
            f"{name}={own[name]!r}"
            for name, argument in inspect.signature(type(self)).parameters.items()
            if own[name] != argument.default
        ]
        return f"SignGD({', '.join(given)})"

    def apply(self, model: nn.Module, calibration: Any) -> SignGDNetwork:
        """The converted network, in evaluation mode; the model is left as it is.

        Args:
            model: A trained network. It is converted in evaluation mode.
            calibration: A tensor, or batches as tensors, tuples of positional arguments (a label
                behind them is left out) or dicts of keyword arguments. The first axis of tensors
                is the batch; other shapes must stay as in the first batch.

        Raises:
            NotImplementedError: If an operator is neither affine nor has a node; names every one.
            TypeError: If the model is no module, its control flow depends on values, or a batch
                is no batch.
            ValueError: If there is no batch, the model yields NaN, or it is affine throughout.

        Warns:
            UserWarning: If a given quantile, margin or scale leaves more than 1 % of a node's
                calibration values beyond its reach.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model: must be a torch.nn.Module, got {model!r}; call functions in the forward "
                f"of a module"
            )
        calls = [call for call in batches(model, calibration) if _length(call) != 0]
        if not calls:
            raise ValueError("calibration: its batches hold no sample; give at least one")
        # What is made in inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            captured = capture(model, calls[0])
            if self.decompose:
                decompose_operators(captured)
            plan = classify(captured.module.graph)
            inputs = [captured.flatten(call.args, call.kwargs) for call in calls]
            fit = _Fit(self, captured, plan, inputs)
            network = fit.network(fit.best())
            network.report = fit.report(network)
        return network.eval()


@dataclass(frozen=True)
class _Setting:
    """What is fitted for the whole network."""

    decay: float = 0.7
    hold: float = 0.0
    margin: float = 1.2


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


class _Fit:
    """One conversion: what the calibration data say, and what follows from it."""

    def __init__(
        self, recipe: SignGD, captured: Captured, plan: Plan, inputs: list[list[Any]]
    ) -> None:
        self.recipe, self.captured, self.plan = recipe, captured, plan
        self.inputs = inputs
        self.ann = Machine(captured.module, plan, over_time=False)
        self.checked = pytree.tree_map_only(Tensor, self._head, inputs[0])
        self.exact: dict[str, Tensor] = {}
        self.expected = self.ann(self.checked, self._remember)
        self.portion = self._portion()
        self.deepest = max(1, *(site.depth for site in plan.sites))
        self.reaches = self._reaches()
        nodes = captured.module.graph.nodes
        names = [str(node.target) for node in nodes if node.op == "placeholder"]
        self.entry = Entry(names, inputs)
        self.fits_margin = recipe.margin is None and recipe.scale is None
        self.is_fitted = self.fits_margin and recipe.quantile == 1.0

    def _head(self, value: Tensor) -> Tensor:
        return value[: self.recipe.samples] if value.dim() else value

    def _remember(self, site: Site, operands: Any, compute: Callable[[], Tensor]) -> Tensor:
        self.exact[site.name] = value = compute()
        return value

    def _portion(self) -> int | None:
        """How many samples the network runs at once; None if they see each other."""

        def plain(inputs: list[Any]) -> list[Any]:
            return self.ann(inputs, _computed)

        if not are_independent(plain, self.checked, self.expected):
            return None
        return portion_size(self.captured.module.graph, self.plan, self.recipe.steps)

    def _reaches(self) -> dict[str, Tensor]:
        """For every node the magnitude that it has to reach, with the margin."""
        recipe, found = self.recipe, dict[str, Tensor]()

        def note(site: Site, operands: Any, compute: Callable[[], Tensor]) -> Tensor:
            value = compute()
            axes = site.batch if recipe.per == "neuron" else range(value.dim())
            seen = batch_quantile(value, recipe.quantile, axes)
            before = found.get(site.name, seen)
            found[site.name] = torch.maximum(before, seen)
            return value

        for flat in self.inputs:
            self.ann(flat, note)
        return {name: _at_least_a_share(reach) for name, reach in found.items()}

    def network(self, setting: _Setting) -> SignGDNetwork:
        """The network with these settings."""
        recipe = self.recipe
        schedules = {site.name: self._schedule(site, setting) for site in self.plan.sites}
        scales = {site.name: self._scale(site, setting) for site in self.plan.sites}
        return SignGDNetwork(
            self.captured,
            self.plan,
            schedules,
            recipe.steps,
            scales,
            recipe.make,
            self.portion,
            self.entry,
        )

    def _scale(self, site: Site, setting: _Setting) -> float | Tensor:
        given, reach = self.recipe.scale, self.reaches[site.name]
        if given is None:
            total = self._schedule(site, setting).reach(self.recipe.steps)
            return setting.margin * reach / total
        if given == "published":
            return reach if site.operator == "relu" else 1.0
        return float(given)

    def _schedule(self, site: Site, setting: _Setting) -> Schedule:
        """The given schedule, or one that holds the longer, the deeper the node stands."""
        if self.recipe.schedule is not None:
            return self.recipe.schedule
        hold = round(setting.hold * self.recipe.steps * site.depth / self.deepest)
        return Exponential(1.0, setting.decay, hold)

    def best(self) -> _Setting:
        """The settings with the least error, searched one after the other, twice."""
        recipe = self.recipe
        open_to: dict[str, tuple[float, ...]] = {}
        if recipe.schedule is None:
            open_to |= {"hold": HOLDS, "decay": DECAYS}
        if self.fits_margin:
            open_to["margin"] = MARGINS
        tried: dict[_Setting, float] = {}

        def error(setting: _Setting) -> float:
            if setting not in tried:
                network = self.network(setting)
                tried[setting] = self._error(network)
            return tried[setting]

        found = _Setting(margin=recipe.margin or MARGINS[-1])
        rounds = [*open_to.items()] * 2
        for name, values in tqdm(rounds, desc="schedule", leave=False, delay=2.0):
            found = min((replace(found, **{name: value}) for value in values), key=error)
        return found

    def _error(self, network: SignGDNetwork) -> float:
        """The relative error of the last outputs."""
        (outputs,) = network.decode(self.checked, [network.steps])
        triples = zip(outputs, self.expected, network.timed_outputs(), strict=True)
        errors = [_relative_error(y, exact) for y, exact, moves in triples if moves]
        return sum(errors) / max(1, len(errors))

    def report(self, network: SignGDNetwork) -> Report:
        """What became of every node, measured on calibration data."""
        report = Report("signGD conversion", COLUMNS)
        samples = _length(Batch(tuple(self.checked), {})) or 1
        last: dict[str, list[Tensor]] = {site.name: [] for site in self.plan.sites}
        spikes = dict.fromkeys(last, 0)

        def note(site: Site, sent: Tensor) -> None:
            last[site.name].append(sent[-1].clone())
            spikes[site.name] += int((sent[0] < 0).sum() + (sent[1:] < sent[:-1]).sum())

        for part in portions(self.checked, self.portion):
            network.run(part, note)
        for site in self.plan.sites:
            exact, found = self.exact[site.name], joined(last[site.name])
            total = network.schedules[site.name].reach(network.steps)
            reach = torch.as_tensor(network.scales[site.name]) * total
            saturated = float((exact.abs() > reach).float().mean())
            report.add(
                site.place,
                site.operator,
                site.function or "tracked whole",
                float(reach.max()),
                saturated,
                _relative_error(found, exact),
                spikes[site.name] / max(1, network.steps * found.numel()),
                spikes[site.name] / samples,
            )
            if saturated > 0.01 and not self.is_fitted:
                _warn_of_saturation(site, saturated)
        error = self._error(network)
        bits = sum(self.exact[site.name].numel() for site in self.plan.sites) // samples
        report.notes += [
            f"{network.steps} steps, {bits} neurons; squared output error {error:.2e} of its mean "
            f"square on {samples} calibration samples.",
            "saturated: share of values beyond reach; residual: relative squared error of the last "
            "estimate; ones: share of bits that are 1; spikes: ones per sample. A 0 is a message "
            "too (+eta), so spikes do not measure energy.",
        ]
        return report


def _computed(site: Site, operands: Any, compute: Callable[[], Tensor]) -> Tensor:
    """What the plain network has at a site."""
    return compute()


def _warn_of_saturation(site: Site, saturated: float) -> None:
    warnings.warn(
        f"signGD: {saturated:.1%} of the values of {site.operator} at {site.place} lie beyond the "
        f"node's reach and are cut; leave out scale and margin so that they are fitted, use "
        f"a larger quantile, more steps, or a schedule with a larger sum",
        stacklevel=4,
    )


def _at_least_a_share(reach: Tensor) -> Tensor:
    """Reach of neurons that stayed silent: a share of the node's largest, or 1."""
    most = float(reach.max()) if reach.numel() else 0.0
    return reach.clamp_min(LEAST_SHARE * most if most else 1.0)


def _length(call: Batch) -> int | None:
    """How many samples a call has; None if it has no tensor."""
    leaves = pytree.tree_leaves((call.args, call.kwargs))
    return next((len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), None)


def _relative_error(y: Tensor, exact: Tensor) -> float:
    """Squared error relative to the mean square."""
    power = exact.square().mean().clamp_min(torch.finfo(exact.dtype).tiny)
    return float((y - exact).square().mean() / power)
