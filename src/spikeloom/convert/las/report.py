"""What a conversion reports: what each site encodes, what it costs, how far the layers are off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from spikeloom.calibrate import Batch
from spikeloom.convert.las.layers import Activation, WeightLayer, wide
from spikeloom.convert.las.sites import Site
from spikeloom.kernel.call import run
from spikeloom.report import Report

__all__ = [
    "Encoding",
    "LASReport",
    "conversion_report",
    "fan_out",
    "layer_outputs",
    "listed",
    "measured",
    "named_sites",
    "saturation",
    "shortened",
]

# Energy of an addition and of a multiply-add in 45 nm, in pJ (Horowitz, ISSCC 2014).
ADD, MULTIPLY_ADD = 0.9, 4.6
SHOWN = 4  # names in a note


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


def conversion_report(
    encodings: list[Encoding],
    weights: dict[str, int],
    expected: dict[str, list[Tensor]],
    found: dict[str, list[Tensor]],
) -> LASReport:
    """The report of a conversion.

    Args:
        encodings: What each site does.
        weights: As :func:`fan_out` gives them.
        expected: What the original's layers yield, as :func:`layer_outputs` gives it.
        found: What those of the converted network yield.
    """
    columns = ("site", "steps", "normal", "outlier", "clip rate", "SQNR dB", "spikes/value")
    report = LASReport("LAS conversion", columns, [encoding[:-1] for encoding in encodings])
    report.layers = Report("Error against the original", ("layer", "relative L2"))
    for name in expected:
        if name in found:
            wanted, given = expected[name][0], found[name][0]
            error = (given - wanted).norm() / wanted.norm().clamp(min=1e-30)
            report.layers.add(name, float(error))
    total = sum(weights.get(encoding.site, 0) for encoding in encodings)
    if total:
        spikes = sum(encoding.spikes * weights.get(encoding.site, 0) for encoding in encodings)
        report.spikes_per_value = spikes / total
        report.energy = report.spikes_per_value * ADD / MULTIPLY_ADD
        report.notes.append(
            f"linear layers: {report.spikes_per_value:.2f} spikes a value, "
            f"{report.energy:.2f} of the multiply-adds' energy (proxy: {ADD} and "
            f"{MULTIPLY_ADD} pJ, compute only; break-even at {MULTIPLY_ADD / ADD:.1f} spikes)"
        )
    unseen = [encoding.site for encoding in encodings if not encoding.seen]
    if unseen:
        report.notes.append(f"no value in calibration, so any range: {shortened(unseen)}")
    return report


def shortened(names: list[str]) -> str:
    """A list of names, of which only the first are shown."""
    return listed([repr(name) for name in names])


def listed(items: list[str]) -> str:
    """A list of words, of which only the first are shown."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def saturation(network: nn.Module) -> Report:
    """How many values were beyond the largest range of their site or table since the conversion.

    Args:
        network: A converted network.
    """
    report = Report("Saturation", ("site", "values", "saturated", "rate"))
    for name, module in network.named_modules():
        if isinstance(module, (Site, Activation)):
            seen, beyond = module.watch.values, module.watch.saturated
            report.add(name, seen, beyond, beyond / seen if seen else 0.0)
    return report


def named_sites(network: nn.Module) -> Iterator[tuple[str, Site]]:
    """Every site once, by its name."""
    for name, module in network.named_modules():
        if isinstance(module, Site):
            yield name, module


# --- Sites ---------------------------------------------------------------------------------------


class Encoding(NamedTuple):
    """What a site's neuron does to a sample of what the site saw.

    Attributes:
        site: Its name.
        steps: K.
        normal: The median of the channels' innermost ranges.
        outlier: The outermost range.
        clip_rate: The share of values beyond it; None if the site saw none.
        sqnr: Signal to quantisation noise in dB; None if there is no noise, or no value.
        spikes: Spikes a value.
        seen: Whether calibration reached the site.
    """

    site: str
    steps: int
    normal: float
    outlier: float
    clip_rate: float | None
    sqnr: float | None
    spikes: float
    seen: bool

    def reaches(self, target: float) -> bool:
        """Whether the noise is at most so many dB below the signal."""
        return self.sqnr is None or self.sqnr >= target


def measured(name: str, site: Site, sample: Tensor | None) -> Encoding:
    """What the neuron of a site does to a sample ``[n, channels]``; None if it saw nothing."""
    assert site.neuron is not None
    ranges = [getattr(site, key).flatten() for key in site.neuron.ranges]
    steps, normal, outlier = site.neuron.steps, float(ranges[0].median()), float(ranges[-1])
    if sample is None:
        return Encoding(name, steps, normal, outlier, None, None, 0.0, seen=False)
    values = dict(zip(site.neuron.ranges, [ranges[0], *(r[0] for r in ranges[1:])], strict=True))
    spikes, _ = run(site.neuron, sample[None], params=values)
    noise = float((spikes.sum(0) - sample).square().sum())
    sqnr = 10 * math.log10(float(sample.square().sum()) / noise) if noise else None
    fired = float((spikes != 0).sum() / sample.numel())
    clipped = float((sample.abs() > outlier).float().mean())
    return Encoding(name, steps, normal, outlier, clipped, sqnr, fired, seen=True)


def fan_out(network: nn.Module) -> dict[str, int]:
    """Site that feeds linear layers -> multiply-adds for each of its values."""
    total: dict[str, int] = {}
    for module in network.modules():
        if isinstance(module, WeightLayer):
            name = module.source.name
            total[name] = total.get(name, 0) + module.weight.numel()
    return total


# --- Layers --------------------------------------------------------------------------------------


def layer_outputs(network: nn.Module, call: Batch) -> dict[str, list[Tensor]]:
    """What the repeated layers of a network yield, by name; its own output under ``output``."""
    found: dict[str, list[Tensor]] = {}
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


def _keeper(found: dict[str, list[Tensor]], key: str) -> Any:
    def keep(layer: nn.Module, args: Any, output: Any) -> None:
        if tensors := list(_tensors(output)):
            found[key] = [wide(value.detach()).clone() for value in tensors]

    return keep


def _tensors(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors of an output: itself, or those within a tuple or mapping."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
        return
    if is_dataclass(output) and not isinstance(output, (type, Mapping)):
        output = vars(output)
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, Sequence) and not isinstance(output, str):
        for part in output:
            yield from _tensors(part)
