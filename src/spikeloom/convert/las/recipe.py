"""LAS: a pretrained transformer becomes a network of outlier-aware and gated few-spike neurons."""

from __future__ import annotations

import copy
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from spikeloom.calibrate import Batch, batches
from spikeloom.convert.las.checks import check_same, nothing_in_float
from spikeloom.convert.las.operators import Activation, Attention, Linear, Norm, Softmax, Spiking
from spikeloom.convert.las.rules import replace_layers
from spikeloom.convert.las.sites import Make, Site
from spikeloom.convert.las.storage import plan_of
from spikeloom.kernel.call import run
from spikeloom.neurons.few_spike import checked_choice, checked_steps
from spikeloom.report import Report

__all__ = ["LAS", "LASReport", "saturation", "set_form"]

# Energy of an addition and of a multiply-add in 45 nm, in pJ (Horowitz, ISSCC 2014).
ADD, MULTIPLY_ADD = 0.9, 4.6
FFN = re.compile(r"intermediate|\.output\.dense$|mlp|\.fc\d|ffn|\.lin\d|linear\d")


@dataclass
class LASReport(Report):
    """What each site encodes, and how far the network is from the original.

    Attributes:
        layers: Relative L2 error of each layer's output and of the network's own, on the first
            calibration batch.
        spikes_per_value: Over all sites that feed a linear layer, weighted by its fan-out.
        energy: Additions of spikes against multiply-adds of those layers, a proxy: compute only.
    """

    layers: Report = field(default_factory=lambda: Report("Error", ("layer", "relative L2")))
    spikes_per_value: float = math.nan
    energy: float = math.nan

    def __str__(self) -> str:
        return "\n\n".join([super().__str__(), str(self.layers)])

    def as_dict(self) -> dict[str, Any]:
        """What ``to_json`` writes."""
        return {
            **super().as_dict(),
            "layers": self.layers.as_dict(),
            "spikes_per_value": self.spikes_per_value,
            "energy": self.energy,
        }


@dataclass(frozen=True)
class LAS:
    """Convert a transformer: calibrate, choose ranges, generate tables.

    Every input of a linear layer, every query, key, value and probability and both sides of every
    norm become K weighted spikes of an outlier-aware neuron (:class:`~spikeloom.neurons.OAT`);
    activations, exponentials, reciprocals, squares and roots are gated few-spike neurons
    (:class:`~spikeloom.neurons.HG`). Embeddings and their norm, residual additions, means, weights
    and biases stay as they are.

    Args:
        steps: K of every neuron, 1 to 24.
        extra_steps: More steps for the norms and the feed-forward layers, where errors weigh most.
        site_steps: Pattern of a site's name -> its K.
        ranges: Ranges of an outlier-aware neuron up to the largest calibrated value, 2 or 3.
        rounding: ``"nearest"`` or ``"truncate"``.
        segments: Pieces of each generated table; None: 32, and 64 from 11 steps on.
        headroom: A further range reaches to so many times that value; 1 for none.
        target_sqnr: In dB. Every site takes the fewest steps that reach it instead of ``steps``.
        exclude: Names of modules to leave as they are; ``""`` is the model's own forward.
        progress: Show bars.
        make: Builds a host's module for every outlier-aware and every activation's neuron, such as
            ``spikeloom.plugins.norse.make``; the network then computes spike by spike, as after
            :func:`set_form`. None runs the fast path.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikeloom import convert
        >>> _ = torch.manual_seed(0)
        >>> ann = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.LayerNorm(16)).eval()
        >>> snn = convert.LAS(steps=10).apply(ann, [torch.randn(64, 4)])
        >>> x = torch.randn(8, 4)
        >>> bool((snn(x) - ann(x)).abs().max() < 0.02)
        True
        >>> snn.report.column("site")
        ['0.site', '2.before', '2.after']

    Source: LAS, arXiv:2505.09659 (AAAI 2026); ranges are calibrated and tables generated here.
    """

    steps: int = 8
    extra_steps: int = 0
    site_steps: Mapping[str, int] = field(default_factory=dict)
    ranges: int = 3
    rounding: str = "nearest"
    segments: int | None = None
    headroom: float = 2.0
    target_sqnr: float | None = None
    exclude: Sequence[str] = ()
    progress: bool = True
    make: Make | None = None

    def __post_init__(self) -> None:
        checked_steps("LAS", self.steps)
        checked_steps("LAS: steps + extra_steps", self.steps + self.extra_steps)
        for pattern, steps in self.site_steps.items():
            checked_steps(f"LAS: site_steps[{pattern!r}]", steps)
        checked_choice("LAS: rounding", self.rounding, ("truncate", "nearest"))
        if self.ranges not in (2, 3):
            raise ValueError(f"LAS: ranges must be 2 or 3, got {self.ranges!r}")
        if not self.headroom >= 1:
            raise ValueError(f"LAS: headroom must be at least 1, got {self.headroom!r}")
        if isinstance(self.exclude, str):
            raise TypeError(f"LAS: exclude must be a list of names, got {self.exclude!r}")

    def apply(self, model: nn.Module, calibration: Any) -> nn.Module:
        """A converted copy of a model; the model itself is not touched.

        Args:
            model: A model of transformers, or a plain module of layers that have a rule.
            calibration: Batches: tensors, tuples, or dicts of keyword arguments.

        Returns:
            The same class of model, in eval mode, with a ``report``. :func:`set_form` switches it
            between decoded and step-by-step spikes; after ``save_pretrained``, :func:`load_las`
            reads it back.

        Raises:
            TypeError: If modules have no rule and are not excluded, or compute products or
                nonlinear functions themselves; all of them are listed.
            ValueError: If the architecture is not supported, a layer only looks like one that has
                a rule, the calibration is empty, or an activation is NaN or infinite.
        """
        calls = list(batches(model, calibration, progress=self.progress))
        network = copy.deepcopy(model).eval()
        with torch.no_grad(), _as_written(network):
            _attend(network, "eager")
            expected = _layer_outputs(network, calls[0])
            replace_layers(network, self.exclude)
            _attend(network)
            _name_sites(network)
            self._calibrate(network, calls, expected)
            measured = self._fit(network)
            found = _layer_outputs(network, calls[0])
        _guard(network, list(self.exclude))
        if self.make is not None:
            set_form(network, "spikes", self.make)
        network.report = self._report(measured, expected, found)  # type: ignore[assignment]  # not a tensor
        return network

    def _calibrate(
        self, network: nn.Module, calls: list[Batch], expected: dict[str, Tensor]
    ) -> None:
        readers: dict[int, tuple[Tensor, list[Linear]]] = {}

        def note(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            # Kept until the next batch, so that no other tensor takes its identity.
            readers.setdefault(id(args[0]), (args[0], []))[1].append(layer)  # type: ignore[arg-type]  # hooked layers only

        layers = [module for module in network.modules() if isinstance(module, Linear)]
        hooks = [layer.register_forward_pre_hook(note) for layer in layers]
        bar = tqdm(calls, "calibrating", leave=False, disable=not self.progress, delay=2.0)
        for number, call in enumerate(bar):
            readers.clear()
            if number:
                network(*call.args, **call.kwargs)
            else:
                with nothing_in_float(network, self.exclude):
                    found = _layer_outputs(network, call)
                check_same(expected, found, _dtype(network))
            # Attention gets its sites when it is first called.
            _name_sites(network)
        for hook in hooks:
            hook.remove()
        for _, same in readers.values():
            for layer in same[1:]:
                layer.share(same[0].source)
            same[0].source.users = len(same)

    def _fit(self, network: nn.Module) -> list[tuple[Any, ...]]:
        """Choose steps and ranges, generate tables; returns the report's rows."""
        rows = []
        sites = dict(_sites(network))
        fan_out = _fan_out(network)
        bar = tqdm(
            sites.items(), "choosing ranges", leave=False, disable=not self.progress, delay=2.0
        )
        for name, site in bar:
            sample = site.observation.sample() if site.observation.rows else None  # type: ignore[union-attr]  # observed
            row = self._fit_site(name, site, sample)
            rows.append((*row, fan_out.get(id(site), 0)))
        for name, module in network.named_modules():
            if isinstance(module, Activation):
                steps = self._steps(name)
                module.fit(steps, self._segments(steps), self.headroom)
            elif isinstance(module, (Norm, Softmax)):
                steps = self._steps(name)
                module.install(steps, self._segments(steps))
            if isinstance(module, (Spiking, Attention)):
                module.observing = False
        return rows

    def _fit_site(self, name: str, site: Site, sample: Tensor | None) -> tuple[Any, ...]:
        observation = site.observation
        choices = [self._steps(name)] if self.target_sqnr is None else range(1, 25)
        for steps in choices:
            site.observation = observation
            site.fit(steps, self.ranges - 2, self.rounding, self.headroom)
            row = _measure(name, site, sample)
            if self.target_sqnr is not None and (row[5] or 0) >= self.target_sqnr:
                break
        return row

    def _steps(self, name: str) -> int:
        for pattern, steps in self.site_steps.items():
            if re.search(pattern, name):
                return steps
        norm = re.search(r"norm|ln_", name, re.IGNORECASE)
        return self.steps + (self.extra_steps if norm or FFN.search(name) else 0)

    def _segments(self, steps: int) -> int:
        return self.segments or (32 if steps <= 10 else 64)

    def _report(
        self,
        rows: list[tuple[Any, ...]],
        expected: dict[str, Tensor],
        found: dict[str, Tensor],
    ) -> LASReport:
        columns = ("site", "steps", "normal", "outlier", "clip rate", "SQNR dB", "spikes/value")
        report = LASReport("LAS conversion", columns, [row[:-1] for row in rows])
        report.layers = Report("Error against the original", ("layer", "relative L2"))
        for name, wanted in expected.items():
            error = (found[name] - wanted).norm() / wanted.norm().clamp(min=1e-30)
            report.layers.add(name, float(error))
        weight = sum(row[-1] for row in rows)
        if weight:
            report.spikes_per_value = sum(row[6] * row[-1] for row in rows) / weight
            report.energy = report.spikes_per_value * ADD / MULTIPLY_ADD
            report.notes.append(
                f"linear layers: {report.spikes_per_value:.2f} spikes a value, "
                f"{report.energy:.2f} of the multiply-adds' energy (proxy: {ADD} and "
                f"{MULTIPLY_ADD} pJ, compute only; break-even at {MULTIPLY_ADD / ADD:.1f} spikes)"
            )
        return report


# --- transformers, and torch's own ways --------------------------------------------------------


def _pretrained(network: nn.Module) -> list[Any]:
    """The models of transformers in a network, itself included."""
    transformers = sys.modules.get("transformers")
    if transformers is None:
        return []
    return [part for part in network.modules() if isinstance(part, transformers.PreTrainedModel)]


def _attend(network: nn.Module, *implementation: str) -> None:
    """Choose the attention of all models of transformers in a network; the spiking one if none."""
    for part in _pretrained(network):
        from spikeloom.convert.las.hugging_face import use_attention

        use_attention(part, *implementation)


def _guard(network: nn.Module, exclude: list[str]) -> None:
    """Let models of transformers refuse what was not converted, and know what they are made of."""
    for part in _pretrained(network):
        from spikeloom.convert.las.hugging_face import check_call

        part.register_forward_pre_hook(check_call, with_kwargs=True)
        if part is network:
            part.config.spikeloom_las = plan_of(part, exclude)  # type: ignore[union-attr]  # transformers' own


@contextmanager
def _as_written(network: nn.Module) -> Iterator[None]:
    """Compute in the model's dtype, and masked places too.

    Neither autocast, nor the fused path of torch's encoder, which leaves out masked places.
    """
    device = next((value.device.type for value in network.parameters()), "cpu")
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _dtype(network: nn.Module) -> torch.dtype:
    dtypes = (value.dtype for value in network.parameters() if value.is_floating_point())
    return next(dtypes, torch.float32)


# --- Converted networks --------------------------------------------------------------------------


def set_form(network: nn.Module, form: str, make: Make | None = None) -> None:
    """Compute with decoded spikes (fast) or step by step (the meaning); the results agree.

    Args:
        network: A converted network.
        form: ``"decoded"`` or ``"spikes"``.
        make: Builds the modules that fire the spikes of sites and activations, such as
            ``spikeloom.plugins.norse.make``. They become children called ``node``, which the
            host's monitors and hooks see, until the form is set again. Softmax and norms fire
            by their own tables.

    Raises:
        ValueError: If the form is neither, or is not ``"spikes"`` and ``make`` is given.
    """
    checked_choice("set_form: form", form, ("decoded", "spikes"))
    if make is not None and form != "spikes":
        raise ValueError(f"set_form: make needs the form 'spikes', got {form!r}")
    for module in list(network.modules()):
        if isinstance(module, (Spiking, Attention)):
            module.form = form
        if isinstance(module, (Site, Activation)):
            module.fire_through(make)


def saturation(network: nn.Module) -> Report:
    """How many values were beyond the largest range of their site since the conversion.

    Args:
        network: A converted network.
    """
    report = Report("Saturation", ("site", "values", "saturated", "rate"))
    for name, site in _sites(network):
        rate = site.saturated / site.values if site.values else 0.0
        report.add(name, site.values, site.saturated, rate)
    return report


def _sites(network: nn.Module) -> Iterator[tuple[str, Site]]:
    """Every site once, by its name."""
    for name, module in network.named_modules():
        if isinstance(module, Site):
            yield name, module


def _name_sites(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if isinstance(module, (Site, Activation)):
            module.name = name


def _fan_out(network: nn.Module) -> dict[int, int]:
    """Multiply-adds a value of each site that feeds linear layers."""
    total: dict[int, int] = {}
    for module in network.modules():
        if isinstance(module, Linear):
            key = id(module.source)
            total[key] = total.get(key, 0) + module.out_features * module.in_features
    return total


def _measure(name: str, site: Site, sample: Tensor | None) -> tuple[Any, ...]:
    """The row of a site: what its neuron does to the sample."""
    assert site.neuron is not None
    ranges = [getattr(site, key).flatten() for key in site.neuron.ranges]
    normal, outlier = float(ranges[0].median()), float(ranges[-1])
    if sample is None:
        return name, site.neuron.steps, normal, outlier, None, None, 0.0
    values = dict(zip(site.neuron.ranges, [ranges[0], *(r[0] for r in ranges[1:])], strict=True))
    spikes, _ = run(site.neuron, sample[None], params=values)
    noise = float((spikes.sum(0) - sample).square().sum())
    sqnr = 10 * math.log10(float(sample.square().sum()) / noise) if noise else None
    fired = float((spikes != 0).sum() / sample.numel())
    clipped = float((sample.abs() > outlier).float().mean())
    return name, site.neuron.steps, normal, outlier, clipped, sqnr, fired


def _layer_outputs(network: nn.Module, call: Batch) -> dict[str, Tensor]:
    """What the repeated layers of a network yield, by name; its own output under ``output``."""
    found: dict[str, Tensor] = {}
    hooks = [network.register_forward_hook(_keeper(found, "output"))]
    for prefix, parent in network.named_modules():
        if isinstance(parent, nn.ModuleList):
            for name, layer in parent.named_children():
                key = f"{prefix}.{name}".lstrip(".")
                hooks.append(layer.register_forward_hook(_keeper(found, key)))
    try:
        network(*call.args, **call.kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _keeper(found: dict[str, Tensor], key: str) -> Any:
    def keep(layer: nn.Module, args: Any, output: Any) -> None:
        first = _first_tensor(output)
        if first is not None:
            found[key] = first.detach().float().clone()

    return keep


def _first_tensor(output: Any) -> Tensor | None:
    """The tensor that leads an output: itself, or the first within a tuple or mapping."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, str) or not isinstance(output, (Mapping, Sequence)):
        return None
    parts = output.values() if isinstance(output, Mapping) else output
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)
