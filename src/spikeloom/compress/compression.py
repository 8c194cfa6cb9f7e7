"""Pruning and quantisation of a whole network, with a report of what happened to each layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from spikeloom.agreement import check_same_model, check_unsharded_model, in_step
from spikeloom.compress.allocation import allocate
from spikeloom.compress.blocks import Block
from spikeloom.compress.buffers import BUFFERS, blank, codes_of, keep
from spikeloom.compress.coverage import by_reason, weights_of
from spikeloom.compress.objective import quadratic_error
from spikeloom.compress.order import Order, Pattern
from spikeloom.compress.pruning import choose, prune_blocks, working_memory
from spikeloom.compress.quantization import check_bits, grid, quantize_blocks, round_to_grid
from spikeloom.compress.removal import by_magnitude
from spikeloom.compress.split import Done, of_all, owners_of
from spikeloom.compress.statistics import LayerStatistics, Statistics, fingerprint
from spikeloom.compress.swap import Change, make_changes
from spikeloom.compress.weights import check_weights
from spikeloom.names import names_of
from spikeloom.ranks import number
from spikeloom.report import Report
from spikeloom.rows import (
    WeightLayer,
    in_weight_shape,
    is_weight_layer,
    outputs_first,
)

__all__ = ["load_compressed", "prune", "quantize"]


@in_step("model", "stats", flag="split")
def prune(
    model: nn.Module,
    stats: Statistics,
    sparsity: float | None = None,
    method: str = "osbc",
    allocation: str | Mapping[str, float] = "lamps",
    *,
    power: float = 2.0,
    pattern: str | Pattern | None = None,
    layers: Sequence[str] | None = None,
    effort: str = "balanced",
    split: bool = False,
) -> Report:
    """Remove weights of a trained network in place, without training.

    Each layer gets a buffer ``weight_mask``, True where a weight is removed. It is saved with the
    model (see :func:`load_compressed`) and holds the removed weights at zero in every forward pass,
    so that the network can be trained further. Weights that an earlier call removed stay removed,
    and count. Biases and normalisations stay as they are. A layer that was quantised keeps its
    codes, zero where a weight is removed, if its other weights are still on the grid (nothing
    compensates them with ``"magnitude"``); otherwise it loses codes and scale, and the report says
    so: quantise after pruning. All layers change in one step: an interrupt (Ctrl-C) leaves the
    network as it was, or wholly pruned.

    Args:
        model: The network that was calibrated, or a copy of it.
        stats: From :func:`calibrate`.
        sparsity: Share of the weights of these layers to remove, in [0, 1), see ``layers``; the
            report also says which share of all weights of the model is gone. Not with a pattern,
            nor with shares in ``allocation``.
        method: ``"osbc"`` orders and compensates by the filtered inputs, ``"obs"`` by the inputs
            as they are, ``"magnitude"`` removes the smallest weights and compensates nothing. All
            remove the same number of weights from each layer.
        allocation: ``"lamps"``, ``"uniform"``, or each layer's share, see :func:`allocate`; not
            with a pattern.
        power: Exponent of the LAMPS scores.
        pattern: Such as ``"2:4"``: of each 4 neighbouring input channels, 2 stay.
        layers: Names of the layers to prune; None takes all that were calibrated.
        effort: ``"exact"``, ``"balanced"`` or ``"fast"``, see :func:`prune_weight`.
        split: Share the layers among the processes of ``torch.distributed``, which all call this;
            each of them then has all results.

    Returns:
        A report with a row for each layer: how many weights were to go and went, how they were
        ordered, the errors before and after compensation (each as a share of the error of removing
        the whole layer: in the membrane, in the current, and in the weights), the time, and the
        memory that the order needed. Notes tell the share of all weights of the model that is
        gone, and which weights were left out and why. Every parameter with several values along two
        axes or more is a weight; biases and the gains of normalisations are none.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, a layer is missing or changed after calibration,
            its weight cannot be compressed in place, or the statistics lack what the method needs
            or are on another device; or, if split, the processes have different models. The model
            is untouched then.
        RankFailed: If split, and another process failed.

    Example:
        >>> import torch
        >>> from spikeloom import SpikingLayer, compress, neurons
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4), SpikingLayer(neurons.LIF())).eval()
        >>> stats = compress.calibrate(net, [torch.rand(10, 16, 8).round()])
        >>> report = compress.prune(net, stats, sparsity=0.75)
        >>> report.column("removed")
        [24]
        >>> int((net[0].weight == 0).sum())
        24
    """
    _choice("method", method, ("osbc", "obs", "magnitude"))
    parsed = None if pattern is None else Pattern.parse(pattern)
    check_unsharded_model(model)
    if split:
        check_same_model(model)
    found = _selected(model, stats, layers)
    weights = {name: outputs_first(layer, layer.weight) for name, layer in found.items()}
    if parsed is not None:
        if sparsity is not None and sparsity != 1 - parsed.keep / parsed.of:
            raise ValueError(f"sparsity: pattern {parsed} fixes it; leave it out")
        if allocation != "lamps":
            raise ValueError(
                f"allocation: pattern {parsed} fixes it; leave allocation={allocation!r} out"
            )
        counts = {name: parsed.check_count(w.numel(), None) for name, w in weights.items()}
    else:
        counts = allocate(weights, sparsity, allocation, power)

    def one(name: str, W: Tensor, layer: LayerStatistics) -> _Result:
        order = Order.plan(weights[name].shape, counts[name], effort, parsed)
        held = _held(found[name])
        if method == "magnitude":
            mask = choose(by_magnitude(W, order, held), counts[name], order, held)
            pruned, how, memory = W.masked_fill(mask, 0.0), "magnitude", 0
        else:
            blocks = _blocks(name, layer, method == "osbc")
            scale = layer.row_scale if method == "osbc" else None
            pruned, mask = prune_blocks(W, blocks, counts[name], scale, order, held, repr(name))
            how = order.name
            memory = max(working_memory(len(b.rows), W.shape[1], order) for b in blocks)
        shown = (W.numel(), counts[name], int(mask.sum()), how)
        return _Result(pruned, W.masked_fill(mask, 0.0), {"weight_mask": mask}, shown, memory)

    columns = ("weights", "target", "removed", "order")
    report = _compress(f"Pruned by {method}", columns, found, stats, one, split)
    report.notes[:0] = _shares(model, sum(report.column("weights")), sum(report.column("removed")))
    report.notes += _left_out(model, found, stats)
    earlier = [name for name, _, target, removed, *_ in report.rows if removed > target]
    if earlier:
        report.notes.append(f"More had been removed before, and stays so: {', '.join(earlier)}")
    return report


@in_step("model", "stats", flag="split")
def quantize(
    model: nn.Module,
    stats: Statistics,
    bits: int = 4,
    method: str = "osbc",
    *,
    layers: Sequence[str] | None = None,
    split: bool = False,
) -> Report:
    """Round the weights of a trained network to a grid in place, without training.

    Each layer gets buffers ``weight_codes`` (int8) and ``weight_scale`` (one value a row); scale
    times code is the layer's weight to the last bit. Training moves the weight and not the codes:
    saving (``state_dict()``) such a layer warns. Weights removed by :func:`prune` stay zero;
    what compensation would have given them goes to the weights that follow (experimental). All
    layers change in one step: an interrupt (Ctrl-C) leaves the network as it was, or wholly
    quantised.

    Args:
        model: The network that was calibrated, or a copy of it, pruned or not.
        stats: From :func:`calibrate`.
        bits: Bits of a code, from 2 to 8.
        method: ``"osbc"`` compensates by the filtered inputs, ``"obc"`` by the inputs as they are,
            ``"rtn"`` rounds each weight to the nearest value of the same grid.
        layers: Names of the layers to quantise; None takes all that were calibrated.
        split: As for :func:`prune`.

    Returns:
        A report with a row for each layer: its bits, the errors of rounding to nearest ("before")
        and of the method ("after"), each as a share of the error of removing the whole layer, the
        time, and the memory of the Hessians; notes tell which weights of the model were left out
        and why.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, a layer is missing or changed after calibration,
            its weight cannot be compressed in place, or the statistics lack what the method needs
            or are on another device; or, if split, the processes have different models. The model
            is untouched then.
        RankFailed: If split, and another process failed.

    Example:
        >>> import torch
        >>> from spikeloom import SpikingLayer, compress, neurons
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4), SpikingLayer(neurons.LIF())).eval()
        >>> stats = compress.calibrate(net, [torch.rand(10, 16, 8).round()])
        >>> report = compress.quantize(net, stats, bits=3)
        >>> torch.equal(net[0].weight, net[0].weight_scale[:, None] * net[0].weight_codes)
        True
    """
    _choice("method", method, ("osbc", "obc", "rtn"))
    check_bits(bits)
    check_unsharded_model(model)
    if split:
        check_same_model(model)
    found = _selected(model, stats, layers)

    def one(name: str, W: Tensor, layer: LayerStatistics) -> _Result:
        kept = found[name]
        dtype = kept.weight.dtype
        scale = grid(W, bits, dtype)
        nearest = round_to_grid(W, scale.double(), bits)
        codes, memory = nearest.to(torch.int8), 0
        if method != "rtn":
            blocks = _blocks(name, layer, method == "osbc")
            codes = quantize_blocks(W, blocks, scale.double(), bits, _held(kept))
            memory = 2 * max(block.hessian.nbytes for block in blocks)
        quantised = (scale[:, None] * codes.to(dtype)).double()
        buffers = {"weight_codes": codes, "weight_scale": scale}
        shown = (W.numel(), bits)
        return _Result(quantised, scale.double()[:, None] * nearest, buffers, shown, memory)

    report = _compress(f"Quantised by {method}", ("weights", "bits"), found, stats, one, split)
    report.notes += _left_out(model, found, stats)
    return report


def load_compressed(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load the state of a compressed network into a network of the same architecture.

    The buffers of :func:`prune` and :func:`quantize` are made where the state has them.

    Args:
        model: The architecture, compressed or not.
        state_dict: From ``state_dict()`` of a compressed network.

    Raises:
        RuntimeError: If the architecture does not fit.
    """
    layers = {name: m for name, m in model.named_modules() if is_weight_layer(m)}
    made = []
    try:
        for key, value in state_dict.items():
            path, _, name = key.rpartition(".")
            if name in BUFFERS and path in layers and getattr(layers[path], name, None) is None:
                made.append((layers[path], name))
                keep(layers[path], {name: blank(layers[path], name, value.dtype)})
        model.load_state_dict(state_dict)
    except BaseException:
        for layer, name in made:
            layer._buffers.pop(name, None)
        raise


# --- One layer after the other, then all at once ----------------------------------------------

METRICS = ("membrane", "current", "weight")


@dataclass(frozen=True)
class _Result:
    """What became of one layer.

    Attributes:
        weight: The new weights, float64 ``[rows, d]``.
        plain: What they would be without compensation.
        buffers: What the layer keeps, ``[rows, d]`` or ``[rows]``.
        shown: Values for the first columns of the report.
        memory: Bytes the method worked with.
    """

    weight: Tensor
    plain: Tensor
    buffers: dict[str, Tensor]
    shown: tuple[Any, ...]
    memory: int


def _compress(
    title: str,
    columns: Sequence[str],
    found: Mapping[str, WeightLayer],
    stats: Statistics,
    one: Callable[[str, Tensor, LayerStatistics], _Result],
    split: bool,
) -> Report:
    """Compress every layer, and only then write the results into the model."""
    errors = [f"{metric} {when}" for metric in METRICS for when in ("before", "after")]
    report = Report(title, ("layer", *columns, *errors, "seconds", "MB"))
    owners = owners_of(found) if split else dict.fromkeys(found, number())
    own = [name for name in found if owners[name] == number()]
    done: dict[str, Done] = {}
    for name in tqdm(own, desc=title.lower(), disable=None):
        layer, start = found[name], time.perf_counter()
        W = outputs_first(layer, layer.weight.detach()).flatten(1).double()
        result = one(name, W, stats[name])
        seconds = time.perf_counter() - start
        before, after = (_errors(W, new, stats[name]) for new in (result.plain, result.weight))
        values = [value for pair in zip(before, after, strict=True) for value in pair]
        row = (name, *result.shown, *values, seconds, result.memory / 1e6)
        done[name] = _change(layer, result, stats[name].facts.fingerprint), row
    if split:
        done = of_all(done, owners, found)
    for name in found:
        report.add(*done[name][1])
    changes = {name: done[name][0] for name in found}
    make_changes(changes.values())
    off_grid = [n for n, change in changes.items() if change.buffers.get("weight_codes", 0) is None]
    if off_grid:
        names = ", ".join(off_grid)
        report.notes.append(f"No longer on their grid, codes and scale dropped: {names}")
    return report


def _errors(W: Tensor, new: Tensor, layer: LayerStatistics) -> list[float | None]:
    """The error in each metric, as a share of the error of removing the layer."""
    change = new - W
    errors: list[float | None] = []
    for blocks in (layer.spiking, layer.plain):
        if blocks is None:
            errors.append(None)
            continue
        whole = quadratic_error(W, blocks, layer.row_scale)
        error = quadratic_error(change, blocks, layer.row_scale)
        errors.append(error / whole if whole else 0.0)
    energy = float(W.square().sum())
    return [*errors, float(change.square().sum()) / energy if energy else 0.0]


def _change(layer: WeightLayer, result: _Result, calibrated: str) -> Change:
    """What a layer's result makes of it."""
    weight = in_weight_shape(layer, result.weight).to(layer.weight.dtype)
    buffers: dict[str, Tensor | None] = {
        name: in_weight_shape(layer, value) if value.dim() > 1 else value
        for name, value in result.buffers.items()
    }
    mask = buffers.get("weight_mask")
    if mask is not None and getattr(layer, "weight_codes", None) is not None:
        buffers["weight_codes"] = codes = codes_of(layer, weight, mask)
        if codes is None:
            buffers["weight_scale"] = None
    # What was calibrated, and what became of it: so that pruning and quantisation can follow one
    # another, while any other change of the weight is noticed.
    return Change(layer, weight, buffers, (calibrated, fingerprint(weight)))


# --- The part of the model that this is -------------------------------------------------------


def _shares(model: nn.Module, weights: int, removed: int) -> list[str]:
    """How many of all weights are removed, and of those in these layers if there are others."""
    total = sum(weight.numel() for weight in weights_of(model).values())
    masks = [getattr(module, "weight_mask", None) for module in model.modules()]
    gone = sum(int(mask.sum()) for mask in masks if isinstance(mask, Tensor))
    notes = [f"{gone} of {total} weights removed, {gone / max(total, 1):.2%}"]
    if weights < total:
        share = removed / max(weights, 1)
        notes.append(f"{removed} of {weights} weights in these layers, {share:.2%}")
    return notes


def _left_out(model: nn.Module, found: Mapping[str, WeightLayer], stats: Statistics) -> list[str]:
    """Which weights were left out, a note for each reason."""
    weights, reasons = weights_of(model), {}
    for name in weights:
        owner, _, own = name.rpartition(".")
        if owner in stats and own == "weight":
            if owner not in found:
                reasons[name] = "not among the layers asked for"
        else:
            reasons[name] = stats.left_out.get(name, "not there when the model was calibrated")
    return [
        f"Left out ({reason}): {', '.join(names)}, {sum(weights[n].numel() for n in names)} weights"
        for reason, names in by_reason(reasons).items()
    ]


# --- What a call must satisfy -----------------------------------------------------------------


def _choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name}: must be one of {', '.join(map(repr, known))}, got {value!r}")


def _selected(
    model: nn.Module, stats: Statistics, layers: Sequence[str] | None
) -> dict[str, WeightLayer]:
    """The layers to compress, checked to be those that were calibrated."""
    if not isinstance(stats, Statistics):
        raise TypeError(f"stats: must come from calibrate, got {type(stats).__name__}")
    modules = dict(model.named_modules())
    layers = None if layers is None else names_of("layers", layers)
    for name in layers or ():
        if name not in stats:
            raise ValueError(f"layers: {name!r} was not calibrated; there are {', '.join(stats)}")
    found = {}
    for name in stats if layers is None else layers:
        if name not in modules:
            raise ValueError(f"stats: the model has no layer {name!r}; was another one calibrated?")
        layer, calibrated = modules[name], stats[name].facts.fingerprint
        if not is_weight_layer(layer):
            raise ValueError(f"stats: {name!r} is a {type(layer).__name__} in this model")
        device = stats[name].spiking[0].hessian.device
        if device != layer.weight.device:
            raise ValueError(
                f"stats: are on {device}, the weight of {name!r} on {layer.weight.device}; move "
                "the model, or save the statistics and Statistics.load(path, device=...)"
            )
        now = fingerprint(layer.weight)
        if now != calibrated and getattr(layer, "compressed_from", None) != (calibrated, now):
            raise ValueError(
                f"stats: the weight of {name!r} has changed since it was calibrated; "
                "calibrate the model as it is now"
            )
        found[name] = layer
    if not found:
        raise ValueError("layers: names no layer; leave it out to take all that were calibrated")
    check_weights(modules, found)
    return found


def _held(layer: WeightLayer) -> Tensor:
    """Which weights ``[rows, d]`` have been removed from a layer."""
    mask = getattr(layer, "weight_mask", None)
    if not isinstance(mask, Tensor):
        mask = torch.zeros_like(layer.weight, dtype=torch.bool)
    return outputs_first(layer, mask).flatten(1)


def _blocks(name: str, layer: LayerStatistics, spiking: bool) -> tuple[Block, ...]:
    blocks = layer.spiking if spiking else layer.plain
    if blocks is None:
        raise ValueError(
            f"stats: there is no Hessian without filter for {name!r}; calibrate(..., plain=True)"
        )
    return blocks
