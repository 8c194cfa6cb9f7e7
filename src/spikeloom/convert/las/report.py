"""What a conversion reports: what each site encodes, what it costs, how far the layers are off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from spikeloom.calibrate import Batch
from spikeloom.convert.las.calls.kinds import Product
from spikeloom.convert.las.layers import Activation, WeightLayer, wide
from spikeloom.convert.las.ranges import Observation
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
OUTLIER_COLUMNS = ("site", "channel", "largest", "times median")
FAR = 20.0  # channel whose magnitude is so many times the median channel's is an outlier


@dataclass
class LASReport(Report):
    """What each site encodes, and how far the network is from the original.

    Attributes:
        layers: Relative L2 error of each layer's output and of the network's own, on the first
            calibration batch.
        spikes_per_value: Over all sites that weights multiply, in a linear layer or a call such as
            ``conv2d`` or ``matmul`` with a parameter, weighted by their multiply-adds in
            calibration. Products of two activations are not counted.
        energy: Additions of spikes against those multiply-adds, a proxy: compute only.
        outliers: Channels whose largest calibrated magnitude is over 20 times the median channel's,
            with that magnitude and that ratio; those of all heads are counted on.
    """

    layers: Report = field(default_factory=lambda: Report("Error", ("layer", "relative L2")))
    spikes_per_value: float = math.nan
    energy: float = math.nan
    outliers: Report = field(default_factory=lambda: Report("Outlier channels", OUTLIER_COLUMNS))

    def __str__(self) -> str:
        parts = [super().__str__(), str(self.layers)]
        return "\n\n".join([*parts, str(self.outliers)] if self.outliers.rows else parts)

    def as_dict(self) -> dict[str, Any]:
        """What ``to_json`` writes."""
        return {
            **super().as_dict(),
            "layers": self.layers.as_dict(),
            "spikes_per_value": self.spikes_per_value,
            "energy": self.energy,
            "outliers": self.outliers.as_dict(),
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
    report = LASReport("LAS conversion", columns, [encoding[:-2] for encoding in encodings])
    report.layers = Report("Error against the original", ("layer", "relative L2"))
    for name in expected:
        if name in found:
            wanted, given = expected[name][0], found[name][0]
            if wanted.shape != given.shape:
                continue  # an expert that sees other tokens
            error = (given - wanted).norm() / wanted.norm().clamp(min=1e-30)
            report.layers.add(name, float(error))
    for encoding in encodings:
        for outlier in encoding.outliers:
            report.outliers.add(encoding.site, *outlier)
    if report.outliers.rows:
        names = list(dict.fromkeys(encoding.site for encoding in encodings if encoding.outliers))
        report.notes.append(f"outlier channels, see report.outliers: {shortened(names)}")
    total = sum(weights.get(encoding.site, 0) for encoding in encodings)
    if total:
        spikes = sum(encoding.spikes * weights.get(encoding.site, 0) for encoding in encodings)
        report.spikes_per_value = spikes / total
        report.energy = report.spikes_per_value * ADD / MULTIPLY_ADD
        report.notes.append(
            f"weights: {report.spikes_per_value:.2f} spikes a value, "
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
        outliers: Channels far beyond the median one: number, largest magnitude, ratio.
        seen: Whether calibration reached the site.
    """

    site: str
    steps: int
    normal: float
    outlier: float
    clip_rate: float | None
    sqnr: float | None
    spikes: float
    outliers: list[tuple[int, float, float]]
    seen: bool

    def reaches(self, target: float) -> bool:
        """Whether the noise is at most so many dB below the signal."""
        return self.sqnr is None or self.sqnr >= target


def measured(name: str, site: Site, observation: Observation) -> Encoding:
    """What the neuron of a site does to magnitudes that are spread as those that it saw."""
    assert site.neuron is not None
    ranges = {key: getattr(site, key) for key in site.neuron.ranges}
    steps, normal, outlier = site.neuron.steps, float(site.normal.median()), float(site.outlier)  # type: ignore[operator, arg-type]  # buffers
    if observation.peaks is None:
        return Encoding(name, steps, normal, outlier, None, None, 0.0, [], seen=False)
    of_channels = {key: r.flatten() if r.dim() else r for key, r in ranges.items()}
    total = signal = noise = fired = clipped = 0.0
    for values, often in observation.typical():
        spikes, _ = run(site.neuron, values[None], params=of_channels)
        total += float(often.sum())
        signal += float((often * values.square()).sum())
        noise += float((often * (spikes.sum(0) - values).square()).sum())
        fired += float((often * (spikes != 0).sum(0)).sum())
        clipped += float((often * (values > outlier)).sum())
    sqnr = 10 * math.log10(signal / noise) if noise else None
    far = outlier_channels(observation.peaks) if site.channels else []
    return Encoding(
        name, steps, normal, outlier, clipped / total, sqnr, fired / total, far, seen=True
    )


def outlier_channels(peaks: Tensor) -> list[tuple[int, float, float]]:
    """The channels whose peak is far beyond the median one: number, peak, ratio."""
    median = float(peaks.median())
    far = (peaks > FAR * median).nonzero().flatten().tolist() if median else []
    return [(channel, float(peaks[channel]), float(peaks[channel]) / median) for channel in far]


def fan_out(network: nn.Module) -> dict[str, int]:
    """Site that weights multiply -> their multiply-adds with the values of the calibration.

    Args:
        network: After calibration.
    """
    total: dict[str, int] = {}
    for module in network.modules():
        if isinstance(module, WeightLayer):
            site, outputs = module.source, len(module.matrix)
            total[site.name] = total.get(site.name, 0) + outputs * site.calibrated
        elif isinstance(module, Product) and len(module.axes) == 1:
            (site,) = (part for part in module.children() if isinstance(part, Site))
            total[site.name] = module.multiply_adds
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
