"""count_energy: what a spiking network computes, layer by layer, and what that may cost.

The energies are proxies, computed from operation counts and published costs per operation; nothing
is measured on a chip. The arithmetic proxy leaves out memory, which costs more than arithmetic, and
favours spiking networks at almost any firing rate; the memory-inclusive estimate stands beside it,
and each has its break-even rate.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from spikeloom.calibrate import Batch
from spikeloom.grid import bits_of
from spikeloom.kernel.values import checked_count
from spikeloom.modules import is_describable, takes_steps
from spikeloom.report import Report
from spikeloom.verify.counting import Counting, Layer, steps_and_batch
from spikeloom.verify.mfi import checked_sample, exact_copy

__all__ = ["EnergyCosts", "EnergyReport", "count_energy"]


@dataclass(frozen=True)
class EnergyCosts:
    """Energy of an operation in pJ, and the memory accesses that go with it, in bytes.

    The defaults are 32-bit floating point in 45 nm. Memory is counted without caches: an event of
    a spiking network reads its weight, and reads and writes the potential it adds to; a
    multiply-accumulate of a dense network reads its weight and its activation, and accumulates in a
    register; a neuron reads and writes its potential at every step.

    A quantised weight is read at the width of its codes. An event adds the code as a whole number;
    the step of the row's grid is taken to be in the neuron's threshold, or in the scale of its
    potential, and costs nothing. A multiply-accumulate on codes costs what it does on
    floating-point numbers.

    Attributes:
        mac: A multiplication with an addition.
        ac: An addition.
        code_ac: An addition of whole numbers of 32 bits.
        multiply: A multiplication.
        byte: A byte of memory access.
        event_bytes: Bytes that a synaptic addition moves.
        mac_bytes: Bytes that a multiply-accumulate moves.
        weight_bytes: How many of both are a weight's that is not quantised.
        neuron_bytes: Bytes that a neuron moves in a step.

    Source: Horowitz, "Computing's energy problem", ISSCC 2014 (arithmetic); SpikingJelly 2.0,
    ``op_counter.simple_energy`` (a byte).
    """

    mac: float = 4.6
    ac: float = 0.9
    code_ac: float = 0.1
    multiply: float = 3.7
    byte: float = 24.96
    event_bytes: float = 12.0
    mac_bytes: float = 8.0
    weight_bytes: float = 4.0
    neuron_bytes: float = 8.0

    def addition(self, bits: int | None) -> float:
        """Energy of adding a weight of so many bits; None for one that is not quantised."""
        return self.ac if bits is None else self.code_ac

    def narrowed(self, moved: float, bits: int | None) -> float:
        """Energy of moving so many bytes, a weight of so many bits among them."""
        return self.byte * (moved if bits is None else moved - self.weight_bytes + bits / 8)


@dataclass
class EnergyReport(Report):
    """What :func:`count_energy` counted; numbers are for one sample of the batch, all steps.

    Attributes:
        steps: T.
        spikes: Spikes of all neurons; NaN if none of them is spikeloom's.
        rate: Spikes per neuron and step, every neuron counting alike; NaN likewise.
        accumulates: Synaptic additions (AC): one for each spike and synapse.
        code_accumulates: Those of them that add codes, in quantised layers.
        macs: Multiply-accumulates of layers that see real values: the stem, and layers behind
            neurons whose output is graded.
        additions: Additions outside weight layers: skips, leaks, pools.
        rescales: Multiplications outside weight layers, such as norms that are not folded.
        dense: Synapses of spike-driven layers, times steps: the accumulates at a rate of 1.
        twin_macs: Multiply-accumulates of the same network with real activations, in one step.
        proxy: Energy in pJ by arithmetic alone.
        twin_proxy: The twin's.
        proxy_break_even: Share of active synapses at which both are equal; negative if the spiking
            network costs more even when silent, NaN if no layer is driven by spikes.
        memory: Energy in pJ with memory accesses.
        twin_memory: The twin's.
        memory_break_even: The same with memory accesses.
        active: Share of active synapses now, ``accumulates / dense``.
    """

    steps: int = 0
    spikes: float = 0.0
    rate: float = 0.0
    accumulates: float = 0.0
    code_accumulates: float = 0.0
    macs: float = 0.0
    additions: float = 0.0
    rescales: float = 0.0
    dense: float = 0.0
    twin_macs: float = 0.0
    proxy: float = 0.0
    twin_proxy: float = 0.0
    proxy_break_even: float = 0.0
    memory: float = 0.0
    twin_memory: float = 0.0
    memory_break_even: float = 0.0
    active: float = 0.0
    costs: EnergyCosts = field(default_factory=EnergyCosts)

    def as_dict(self) -> dict[str, Any]:
        """What ``to_json`` writes."""
        own = [f.name for f in fields(self) if f.name not in {g.name for g in fields(Report)}]
        numbers = {name: getattr(self, name) for name in own if name != "costs"}
        return {**super().as_dict(), **numbers, "costs": vars(self.costs)}

    def plot(self, column: str | None = "AC", path: str | os.PathLike[str] | None = None) -> Any:
        """A bar for each layer that has such a number.

        Args:
            column: ``"AC"``, ``"MAC"``, ``"synapses"``, ``"spikes"``, ``"rate"`` or ``"bits"``;
                None shows all of them as a heat map.
            path: Save the picture there.
        """
        if column is None:
            return super().plot(None, path)
        shown = [
            row for row, n in zip(self.rows, self.column(column), strict=True) if n is not None
        ]
        return Report(self.title, self.columns, shown).plot(column, path)


@torch.inference_mode(False)  # tensors made there hide what operations are made of
def count_energy(
    model: nn.Module,
    sample: Any,
    *,
    steps: int | None = None,
    batch: int | None = None,
    costs: EnergyCosts | None = None,
) -> EnergyReport:
    r"""Count a network's operations on a sample, and estimate energy from them.

    .. math::
        E &= 4.6\,\mathrm{MAC} + 0.9\,(\mathrm{AC} + \mathrm{additions})
        + 0.1\,\mathrm{AC}_\mathrm{codes} + 3.7\,\mathrm{rescales} \quad\text{pJ} \\
        E_\mathrm{twin} &= 4.6\,\mathrm{MAC}_\mathrm{twin}

    The memory-inclusive estimate adds the accesses that :class:`EnergyCosts` describes. Zeros of
    the padding are no spikes; weights of 0, such as those that pruning has removed, are no
    synapses; a layer that :func:`~spikeloom.compress.quantize` has rounded adds codes, at the width
    that holds all of them; an image that is encoded once counts once. Norms that are not folded are
    rescales: fold them first with :func:`~spikeloom.verify.fold_norms`. What a tensor may hold
    decides, not what it happens to hold: a layer that reads the sample itself multiplies and
    accumulates even if the sample is spikes. Only torch's operations are counted, so a forward that
    takes values out of torch is refused, as :func:`~spikeloom.verify.check_mfi` refuses it; where
    it reads single numbers or conditions, the report says so.

    Args:
        model: In eval mode, with spikeloom neurons; it is not changed. Of another framework's
            neurons the operations are counted, the spikes are not.
        sample: A batch, as :func:`spikeloom.calibrate.arguments_of` takes it: a tensor, a tuple of
            the arguments that have no defaults, or a mapping of keyword arguments; or a list of
            such mappings, whose samples are all counted.
        steps: T; None reads it from what the neurons see, ``[T, batch, ...]`` or ``[batch, ...]``
            T times; if they differ, from an output ``[T, batch, ...]``. So it does if all neurons
            are another framework's and the input begins with the same axes. A network without
            spikes has no steps to read; one converted by LAS takes complete values, in one step.
        batch: Samples in each batch; None reads it likewise.
        costs: What operations cost.

    Returns:
        The report: a row for every neuron and weight layer, totals as attributes.

    Raises:
        TypeError: If the model is no module or one of torch.jit, the sample holds no tensor or too
            few arguments, or steps or batch are no int.
        ValueError: If the model is in training mode or takes values out of torch, the sample is on
            another device or has no axis for its samples, steps or batch are unknown or below 1, or
            a network converted by LAS fires its spikes one by one instead of decoding them.

    Example:
        >>> import torch, spikeloom
        >>> from torch import nn
        >>> from spikeloom.verify import count_energy
        >>> lif = spikeloom.SpikingLayer(spikeloom.neurons.LIF())
        >>> net = nn.Sequential(nn.Linear(4, 8), lif, nn.Linear(8, 2)).eval()
        >>> report = count_energy(net, 3 * torch.rand(5, 1, 4))
        >>> report.macs, report.dense, report.accumulates == 2 * report.spikes
        (160.0, 80.0, True)
    """
    for name, count in (("steps", steps), ("batch", batch)):
        if count is not None:
            checked_count(name, count)
    total, taken, samples = Counting(), 0, 0
    for one in _batches(sample):
        counting, found = Counting(), checked_sample(model, one)
        y = counting.run(exact_copy(model).to(_dtype(model)), found)
        counted = counting.layers.values()
        own, count = steps_and_batch(counted, (found.args, found.kwargs), y, steps, batch)
        if taken not in (0, own):
            raise ValueError(
                f"sample: its batches have {taken} and {own} steps; count them apart, or say which "
                f"number holds for all: count_energy(..., steps=)"
            )
        for layer in counted:
            layer.know_steps(own, count)
        total.add(counting)
        taken, samples = own, samples + count
    return _report(model, total, taken, samples, costs or EnergyCosts())


def _batches(sample: Any) -> list[Any]:
    """The batches of a list of them; a list of tensors is the arguments of one."""
    is_many = isinstance(sample, list) and all(isinstance(one, (Mapping, Batch)) for one in sample)
    return sample if is_many and sample else [sample]


def _dtype(model: nn.Module) -> torch.dtype:
    tensors = (*model.parameters(), *model.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)


def _report(
    model: nn.Module, counting: Counting, steps: int, batch: int, costs: EnergyCosts
) -> EnergyReport:
    layers = counting.layers
    neurons = [layer for layer in layers.values() if layer.is_neuron]
    weights = [layer for layer in layers.values() if not layer.is_neuron]
    widths = {
        (name, is_neuron): None if is_neuron else bits_of(model.get_submodule(name))
        for name, is_neuron in layers
    }
    spikes = sum(layer.spikes for layer in neurons) if neurons else math.nan
    states = sum(layer.neurons for layer in neurons)
    report = EnergyReport(
        "Operations of one sample, all steps",
        ("module", "layer", "spikes", "rate", "synapses", "AC", "MAC", "bits"),
        steps=steps,
        spikes=spikes / batch,
        rate=spikes / max(states, 1),
        accumulates=sum(layer.accumulates for layer in weights) / batch,
        code_accumulates=sum(layers[key].accumulates for key in layers if widths[key]) / batch,
        macs=sum(layer.macs for layer in weights) / batch,
        additions=counting.additions / batch,
        rescales=(counting.multiplications - counting.weight_multiplications) / batch,
        dense=sum(layer.driven for layer in weights) / batch,
        costs=costs,
    )
    report.active = report.accumulates / report.dense if report.dense else 0.0
    works = [
        _Work(widths[key], *(count / batch for count in layer.work))
        for key, layer in layers.items()
        if not layer.is_neuron
    ]
    _estimate(report, works, states / batch)
    for key, layer in layers.items():
        name, _ = key
        kind = type(model.get_submodule(name)).__name__
        report.add(name or "(model)", kind, *_row(layer, batch), widths[key])
    report.notes += _notes(report)
    if values := [name for name, of_neuron in layers if of_neuron and _takes_values(model, name)]:
        report.notes.append(
            f"{_shown(values)} take complete values, each of which counts as one spike here; how "
            f"many it stands for tells the conversion's report."
        )
    if counting.readers:
        report.notes.append(
            f"Values are read in {_shown(list(counting.readers))}: what Python computes from them "
            f"is not counted, and what is made of it counts as constant."
        )
    if counting.opaque:
        report.notes.append(
            f"Products inside {_shown(list(counting.opaque))} are not counted: only one for each "
            f"value of the result is."
        )
    return report


def _takes_values(model: nn.Module, name: str) -> bool:
    """Whether a module encodes a complete value at each call, as those of a conversion by LAS."""
    module = model.get_submodule(name)
    return takes_steps(module) is True and not is_describable(module)


def _shown(found: list[str]) -> str:
    names = [name or "the model" for name in found[:3]]
    return ", ".join(names) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _row(layer: Layer, batch: int) -> tuple[Any, ...]:
    if layer.is_neuron:
        return layer.spikes / batch, layer.spikes / max(layer.neurons, 1), None, None, None
    counts = (layer.driven + layer.macs, layer.accumulates, layer.macs)
    shown = tuple(count / batch for count in counts)
    if not layer.is_driven:
        return None, None, *shown
    return layer.spikes / batch, layer.accumulates / max(layer.driven, 1), *shown


@dataclass(frozen=True)
class _Work:
    """What a weight layer does for one sample, and the width of its weights.

    Attributes:
        bits: None for weights that are not quantised.
        accumulates: Synaptic additions.
        dense: Synaptic additions at a rate of 1.
        macs: Multiply-accumulates.
        twin_macs: Multiply-accumulates of the layer's twin.
    """

    bits: int | None
    accumulates: float
    dense: float
    macs: float
    twin_macs: float


def _estimate(report: EnergyReport, works: list[_Work], neuron_steps: float) -> None:
    """Both energies and their break-even rates, in which only the accumulates vary."""
    costs = report.costs
    report.twin_macs = sum(work.twin_macs for work in works)
    fixed = costs.mac * report.macs + costs.ac * report.additions
    fixed += costs.multiply * report.rescales
    add = [costs.addition(work.bits) for work in works]
    report.proxy = fixed + sum(a * work.accumulates for a, work in zip(add, works, strict=True))
    report.twin_proxy = costs.mac * report.twin_macs
    dense = sum(a * work.dense for a, work in zip(add, works, strict=True))
    report.proxy_break_even = _break_even(report.twin_proxy - fixed, dense)
    fixed += costs.byte * costs.neuron_bytes * neuron_steps
    events = dense = twin = 0.0
    for a, work in zip(add, works, strict=True):
        event = a + costs.narrowed(costs.event_bytes, work.bits)
        moved = costs.narrowed(costs.mac_bytes, work.bits)
        fixed += moved * work.macs
        events += event * work.accumulates
        dense += event * work.dense
        twin += (costs.mac + moved) * work.twin_macs
    report.memory, report.twin_memory = fixed + events, twin
    report.memory_break_even = _break_even(twin - fixed, dense)


def _break_even(budget: float, dense_cost: float) -> float:
    return budget / dense_cost if dense_cost else float("nan")


def _notes(report: EnergyReport) -> list[str]:
    if math.isnan(report.spikes):
        fired = "No neuron of spikeloom ran: spikes and potentials are not counted"
    else:
        fired = f"{report.spikes:,.0f} spikes, {100 * report.rate:.2f} % of neurons a step"
    codes = f" ({report.code_accumulates:,.0f} of codes)" if report.code_accumulates else ""
    return [
        f"{fired}, T={report.steps}; {100 * report.active:.2f} % of synapses active.",
        f"{report.accumulates:,.0f} AC{codes} + {report.additions:,.0f} additions + "
        f"{report.macs:,.0f} MAC + {report.rescales:,.0f} rescales; dense, in one step: "
        f"{report.twin_macs:,.0f} MAC.",
        f"Proxy by arithmetic alone: {report.proxy / 1e6:.4g} uJ against "
        f"{report.twin_proxy / 1e6:.4g} uJ dense; "
        f"{_shown_break_even(report.proxy_break_even)}.",
        f"Estimate with memory: {report.memory / 1e6:.4g} uJ against "
        f"{report.twin_memory / 1e6:.4g} uJ dense; "
        f"{_shown_break_even(report.memory_break_even)}.",
    ]


def _shown_break_even(share: float) -> str:
    if math.isnan(share):
        return "no layer is driven by spikes, so there is no break-even"
    if share < 0:
        return "break-even never: it costs more even without a spike"
    return f"break-even at {100 * share:.1f} % active synapses"
