"""What became of every node of a conversion, measured on calibration data."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from spikeloom.convert.signgd.data import Data, off_by, relative_error, squared_error
from spikeloom.convert.signgd.network import SignGDNetwork
from spikeloom.convert.signgd.operators import Site
from spikeloom.convert.signgd.portions import joined, length, portions
from spikeloom.convert.signgd.watch import TOLERATED
from spikeloom.report import Report

__all__ = ["measured"]

# The error of the outputs, relative to their spread, from which on a warning says so: half of their
# variance is lost then.
UNSETTLED = 0.7

COLUMNS = ("node", "operator", "as", "reach", "saturated", "residual", "ones", "spikes")


def measured(network: SignGDNetwork, data: Data, *, warns: bool, is_fitted: bool) -> Report:
    """The report of a conversion.

    Args:
        network: The converted network.
        data: Calibration samples.
        warns: Whether to warn of values beyond reach, which a fit may have chosen.
        is_fitted: Whether the steps were fitted, not given.

    Warns:
        UserWarning: If more than 1 % of a node's values lie beyond its reach; or if the network is
            far from settled, and more steps are expected to help.
    """
    report = Report("signGD conversion", COLUMNS)
    sites, samples = network.plan.sites, length(data.inputs)
    names = [site.name for site in sites]
    spikes, seen, residual = (
        dict.fromkeys(names, 0),
        dict.fromkeys(names, 0),
        dict.fromkeys(names, 0.0),
    )
    outputs = []

    def note(site: Site, sent: Tensor) -> None:
        name, last, exact = site.name, sent[-1], data.exact[site.name]
        own = exact
        if last.shape != exact.shape:  # a portion
            own = exact[seen[name] : seen[name] + len(last)]
            seen[name] += len(last)
        residual[name] += squared_error(last, own, exact)
        spikes[name] += int((sent[0] < 0).sum() + (sent[1:] < sent[:-1]).sum())

    for part in portions(data.inputs, network.portion):
        outputs.append(network.last_of(network.run(part, note)))
    for site, saturated in zip(sites, network.watch.shares(), strict=True):
        node: Any = network.nodes[site.name]
        report.add(
            site.place,
            site.title,
            site.function or "tracked whole",
            float(node.reach.max()),
            saturated,
            residual[site.name],
            spikes[site.name] / max(1, network.steps * data.exact[site.name].numel()),
            spikes[site.name] / samples,
        )
        if warns and saturated is not None and saturated > TOLERATED:
            _warn_of_saturation(site, saturated)
    network.watch.forget()
    moving = zip(zip(*outputs, strict=True), data.outputs, network.timed_outputs(), strict=True)
    pairs = [(joined(parts), exact) for parts, exact, moves in moving if moves]
    errors = [relative_error(y, exact) for y, exact in pairs]
    off = max((off_by(y, exact) for y, exact in pairs), default=0.0)
    bits = sum(data.exact[site.name].numel() for site in sites) // samples
    report.notes += [
        f"{network.steps} steps, {bits} neurons; squared output error "
        f"{sum(errors) / max(1, len(errors)):.2e} of its mean square on {samples} calibration "
        f"samples.",
        *(_settling(network, off) if is_fitted else []),
        "saturated: share of values beyond reach; residual: relative squared error of the last "
        "estimate; ones: share of bits that are 1; spikes: ones per sample. A 0 is a message "
        "too (+eta), so spikes do not measure energy.",
    ]
    return report


def _settling(network: SignGDNetwork, off: float) -> list[str]:
    """What is to be said of how far the network has settled."""
    needed, depth = network.steps_needed, 1 + max(site.depth for site in network.plan.sites)
    enough = (
        "no number of steps was found that is" if needed is None else f"about {needed} steps are"
    )
    expected = (
        f"each of {depth} nodes in a chain waits for those before it, and {enough} expected to "
        f"bring the outputs within 1 % of their spread"
    )
    if off > UNSETTLED and (needed is None or needed > network.steps):
        warnings.warn(
            f"signGD: after {network.steps} steps the network has not settled, its outputs are off "
            f"by {off:.0%} of their spread on calibration data; {expected}",
            stacklevel=5,
        )
    return [f"The outputs are off by {off:.2g} of their spread; {expected}."]


def _warn_of_saturation(site: Site, saturated: float) -> None:
    warnings.warn(
        f"signGD: {saturated:.1%} of the values of {site.title} at {site.place} lie beyond the "
        f"node's reach and are cut; leave out scale and margin so that they are fitted, use "
        f"a larger quantile, more steps, or a schedule with a larger sum",
        stacklevel=5,
    )
