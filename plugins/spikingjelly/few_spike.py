"""LAS's few-spike neurons as SpikingJelly nodes, and their tables in SpikingJelly's form."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based.neuron import (
    FewSpikeTable,
    OutlierAwareThresholdNode,
)
from spikingjelly.activation_based.neuron import (
    HGNode as HostHGNode,
)
from torch import Tensor, nn

from spikeloom import neurons
from spikeloom.kernel.neuron import tensor_of

from ..adapter import component
from ..native import Differs
from .native import COUNTERPARTS, number_of
from .node import SpikeloomNode

__all__ = ["HGNode", "OATNode", "few_spike_tables"]

LAS = "LAS: Loss-less ANN-SNN Conversion, AAAI 2026, arXiv 2505.09659"


@component("few-spike conversion", LAS)
class OATNode(SpikeloomNode, describes=neurons.OAT):
    """Outlier-aware threshold neuron; :class:`spikeloom.neurons.OAT` has the arguments.

    In step mode "m" the input is summed over time and K weighted spikes leave; in "s" the decoded
    value. With ``tie="ge"`` it equals SpikingJelly's ``OutlierAwareThresholdNode`` made of the
    binary tables of the same ranges.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.spikingjelly import OATNode
        >>> node = OATNode(steps=4, normal=1.0, outlier=16.0)
        >>> node(torch.tensor([0.7, -9.5]))
        tensor([ 0.6875, -9.0000])
    """


@component("few-spike conversion", LAS)
class HGNode(SpikeloomNode, describes=neurons.HG):
    """Hierarchically gated neuron; :class:`spikeloom.neurons.HG` has the arguments.

    Tables may be SpikingJelly's ``FewSpikeTable``; with ``tie="ge"`` it then equals SpikingJelly's
    ``HGNode``. For a generated table use ``make(spikeloom.neurons.fit_hg(...))``.

    Example:
        >>> import torch
        >>> from spikingjelly.activation_based.neuron import FewSpikeTable
        >>> from spikeloom.plugins.spikingjelly import HGNode
        >>> small = FewSpikeTable([1.0, 0.5], [1.0, 0.5], [1.0, 0.5])
        >>> large = FewSpikeTable([8.0, 4.0], [8.0, 4.0], [8.0, 4.0])
        >>> HGNode([2.0], [small, large], tie="ge")(torch.tensor([1.7, 12.5]))
        tensor([ 1.5000, 12.0000])
    """


def few_spike_tables(neuron: neurons.FewSpike | neurons.OAT | neurons.HG) -> list[FewSpikeTable]:
    """A neuron's tables for SpikingJelly's own nodes, a table for each range.

    SpikingJelly fires on the threshold, so ``tie="ge"`` is carried over exactly. Origins and
    constants of an HG become a first step that always fires, so its tables have K + 1 steps.

    Args:
        neuron: A few-spike neuron; an OAT's ranges must be shared by all channels.

    Raises:
        TypeError: If it is another neuron.
        ValueError: If an OAT's ranges differ between channels.

    Example:
        >>> from spikeloom import neurons
        >>> from spikeloom.plugins.spikingjelly import few_spike_tables
        >>> normal, outlier = few_spike_tables(neurons.OAT(3, 1.0, 8.0, tie="ge"))
        >>> outlier.theta
        tensor([4., 2., 1.])
    """
    if isinstance(neuron, neurons.FewSpike):
        rows = [tensor_of(neuron.params[name]) for name in ("theta", "h", "d")]
        return [FewSpikeTable(*rows)]
    if isinstance(neuron, neurons.OAT):
        return [_binary(torch.as_tensor(neuron.params[name]), neuron) for name in neuron.ranges]
    if not isinstance(neuron, neurons.HG):
        raise TypeError(f"neuron: must be a few-spike neuron, got {type(neuron).__name__}")
    written = neuron.as_table() if isinstance(neuron, neurons.LinearHG) else neuron
    columns = [tensor_of(written.params[name]) for name in ("theta", "h", "d")]
    ends = [tensor_of(written.params[name]) for name in ("origins", "constants")]
    return [_with_first(*row) for row in zip(*columns, *ends, strict=True)]


def _binary(reach: Tensor, neuron: neurons.OAT) -> FewSpikeTable:
    if reach.dim():
        raise ValueError("neuron: a FewSpikeTable has no channels; give ranges that all share")
    steps = neuron.steps or 0
    theta = reach.detach() * 0.5 ** torch.arange(1, steps + 1)
    return FewSpikeTable(theta, theta, theta)


def _with_first(
    theta: Tensor, h: Tensor, d: Tensor, origin: Tensor, constant: Tensor
) -> FewSpikeTable:
    """The table behind a step that always fires: it takes the origin and sends the constant."""
    if not origin.any() and not constant.any():
        return FewSpikeTable(theta, h, d)
    always = theta.new_full((1,), torch.finfo(theta.dtype).min / 4)
    return FewSpikeTable(
        torch.cat([always, theta]), torch.cat([origin, h]), torch.cat([constant, d])
    )


@COUNTERPARTS.of(neurons.OAT)
def _native_oat(module: SpikeloomNode) -> nn.Module:
    neuron: Any = module.neuron
    _require_ge(neuron)
    for name, only in (("rounding", "truncate"), ("spikes", "weighted")):
        if getattr(neuron, name) != only:
            raise Differs(
                f"SpikingJelly has {name}={only!r} only, it has {getattr(neuron, name)!r}"
            )
    if len(neuron.ranges) > 2:
        raise Differs(f"SpikingJelly has two ranges, it has {len(neuron.ranges)}")
    reaches = {name: number_of(module, name) for name in neuron.ranges}
    tables = few_spike_tables(neuron.replace(**reaches))
    ends = min(reaches.values()), max(reaches.values())
    return OutlierAwareThresholdNode(tables[0], tables[-1], *ends, step_mode=module.step_mode)


@COUNTERPARTS.of(neurons.HG)
def _native_hg(module: SpikeloomNode) -> nn.Module:
    neuron: Any = module.neuron
    _require_ge(neuron)
    if neuron.low is not None or neuron.high is not None:
        raise Differs("it ends at low and high, SpikingJelly's ranges have no end")
    settings = neuron.settings()
    if settings["origins"].any() or settings["constants"].any():
        raise Differs("SpikingJelly's tables have neither origins nor constants")
    return HostHGNode(few_spike_tables(neuron), neuron.boundaries, step_mode=module.step_mode)


@COUNTERPARTS.of(neurons.FewSpike)
def _native_few_spike(module: SpikeloomNode) -> nn.Module:
    raise Differs(
        "what it has not sent it keeps for the next call, SpikingJelly's FewSpikeNode forgets it"
    )


def _require_ge(neuron: Any) -> None:
    if neuron.tie != "ge":
        raise Differs('it fires above the threshold, SpikingJelly\'s at it; make it with tie="ge"')
