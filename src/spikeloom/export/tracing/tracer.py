"""How signals flow through a model, found by running it once.

Symbolic tracing, on which nirtorch's exporter builds, unrolls time loops into wrong graphs and
stops at the first ``if``. So the model runs on a sample while every tensor that descends from the
input carries the names of the modules it comes from, and the steps it belongs to. Modules that NIR
may know are leaves; what happens between them must move values without changing them (indexing
time, stacking, reshaping) or add signals. Everything else is remembered as an obstacle, and matters
if the output needs it.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.export.tracing.function_calls import Functions
from spikeloom.export.tracing.module_calls import Calls, StepByStep
from spikeloom.export.tracing.record import Record, tensors_in
from spikeloom.export.tracing.signals import (
    CONSEQUENCE,
    INPUT,
    Observation,
    Signal,
    Site,
    ancestors,
)
from spikeloom.modules import takes_steps

__all__ = ["observe"]


def observe(model: Callable[[], nn.Module], sample: Tensor) -> Observation:
    """Run a model once and find its signal flow.

    Args:
        model: Gives a fresh copy of the model, at rest; it will be altered.
        sample: Input ``[T, batch, *]``.

    Returns:
        The sites between input and output, in order.

    Raises:
        TypeError: If the model returns no tensor.
        ValueError: If the output does not depend on the input, or has no time axis.
    """
    try:
        return _observed(model(), sample, stepwise=False)
    except StepByStep:
        return _observed(model(), sample, stepwise=True)
    except ValueError as error:
        # A model of single steps may fail on a sequence before it comes to a neuron; one without
        # neurons has no time and may take each step alone.
        timed = {takes_steps(module) for module in model().modules()}
        if any(timed) or timed == {None}:
            with contextlib.suppress(ValueError):
                return _observed(model(), sample, stepwise=True)
        raise error


def _observed(model: nn.Module, sample: Tensor, stepwise: bool) -> Observation:
    T, B = sample.shape[:2]
    record = Record(T, B, type(model).__name__)
    Calls(record, stepwise).attach(model)
    shape = tuple(sample.shape[2:])
    record.sites[INPUT] = Site(INPUT, "Input", None, (INPUT, "Input"), shape, shape, steps=T)
    try:
        # Steps that share their memory would tell a model that they are all the same.
        with torch.inference_mode(False), torch.no_grad():
            x = sample.detach().clone(memory_format=torch.contiguous_format)
            run = _stepped if stepwise else _whole
            result = run(model, x, record, shape)
            record.check([result])
    except (RuntimeError, ValueError, IndexError) as error:
        shape_given = list(sample.shape)
        raise ValueError(f"model: does not run on the sample {shape_given}: {error}") from error
    if result not in record:
        raise ValueError(
            "model: its output does not depend on the input through modules and torch functions; "
            "use spikeloom.SpikingLayer(neuron) in the place of spikeloom.run, and nothing scripted"
        )
    return _summary(record, result, list(sample.shape))


def _whole(model: nn.Module, x: Tensor, record: Record, shape: tuple[int, ...]) -> Tensor:
    """Call a model with the whole sequence."""
    with Functions(record):
        record.put(x, Signal.of(INPUT, 0, shape))
        result = _first_tensor(model(x), record)
    record.settle(result, 2)
    return result


def _stepped(model: nn.Module, x: Tensor, record: Record, shape: tuple[int, ...]) -> Tensor:
    """Call a model once for each step."""
    with Functions(record):
        result = torch.stack([*_loop(model, x, record, shape)])
    record.settle(result, 2)
    return result


def _loop(
    model: nn.Module, sample: Tensor, record: Record, shape: tuple[int, ...]
) -> Iterator[Tensor]:
    """Call a model once for each step, and hand it back its state if it wants one."""
    explicit = "state" in inspect.signature(model.forward).parameters
    state: tuple[Any, ...] = ()
    for step, x in enumerate(sample.unbind(0)):
        record.put(x, Signal.of(INPUT, step, shape))
        result = model(x, *state)
        state = result[1:2] if explicit else ()
        y = _first_tensor(result, record)
        record.quiet = True
        record.settle(y, 1)
        record.quiet = False
        yield y


def _first_tensor(result: Any, record: Record) -> Tensor:
    """A model's output; what it returns besides, its neurons' states apart, is remembered."""
    tensors = tensors_in(result)
    if not tensors:
        raise TypeError(f"model: must return a tensor, got {type(result).__name__}")
    first, *others = tensors
    spikes = [y for y in record.followed(others) if not record.is_state(record.draft_of(y))]
    record.unwritten = len(spikes)
    return first


def _summary(record: Record, result: Tensor, given: list[int]) -> Observation:
    """What the output depends on, and what stands in its way."""
    signal = record.of(result)
    spikes = result if signal.spikes is None else signal.spikes
    used = ancestors(record.sites, {*signal.sources, *record.left})
    for site in used.values():
        if site.module is not None:
            site.check_calls(record.T)
    lead = (record.T, record.B)
    complete = spikes.dim() > 2 and spikes.shape[:2] == lead
    if not any(site.obstacle for site in used.values()) and not complete:
        raise ValueError(
            f"model: returns {list(spikes.shape)} for an input {given}; "
            f"the output must be one tensor [T, batch, features...]"
        )
    if any(start for _, start in signal.starts):
        last = used[min(signal.sources)]
        last.block("reaches the output at another step than its own", "keep all steps in order")
    _forget_consequences(used)
    return Observation(
        used,
        tuple(sorted(signal.sources)),
        spikes,
        lead,
        [*_notes(record, used)],
        signal.readout,
    )


def _notes(record: Record, used: dict[str, Site]) -> Iterator[str]:
    if record.passing:
        yield f"Pass on what they receive: {', '.join(record.passing)}."
    if record.decided:
        yield (
            "The model looks at values while it runs; on other inputs it may compute something "
            "else than the file, which follows what it did on the sample."
        )
    if record.unwritten:
        count = record.unwritten + 1
        yield f"The model returns {count} signals, of which the file gives the first."
    unused = [name for name, site in record.sites.items() if site.module and name not in used]
    if unused:
        yield f"Left out, since the output does not need it: {', '.join(unused)}."


def _forget_consequences(sites: dict[str, Site]) -> None:
    """Keep the obstacles that are there by themselves; what lies behind them was misled."""
    blocked = {name: (site.obstacle, site.remedy) for name, site in sites.items() if site.obstacle}
    for name, site in sites.items():
        behind = (blocked.keys() & ancestors(sites, site.sources).keys()) - {name}
        if behind and (site.derived or not site.obstacle):
            site.obstacle = CONSEQUENCE
    if blocked and not any(site.obstacle not in ("", CONSEQUENCE) for site in sites.values()):
        # In a loop each comes after the other; the first one is to blame.
        name, (obstacle, remedy) = next(iter(blocked.items()))
        sites[name].obstacle, sites[name].remedy = obstacle, remedy
