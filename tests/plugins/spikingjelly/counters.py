"""Every counter, profiler and estimator that the installed SpikingJelly exports, measured alike."""

import dataclasses
import inspect

import torch
from spikingjelly.activation_based import functional, op_counter

EXPORTED = {name: getattr(op_counter, name) for name in dir(op_counter) if name[0] != "_"}
# They count what a subclass of theirs says.
ABSTRACT = {op_counter.BaseCounter, op_counter.ModuleCounter}


def _classes(base):
    classes = (value for value in EXPORTED.values() if inspect.isclass(value))
    return {cls for cls in classes if issubclass(cls, base)} - ABSTRACT


PROFILERS = {value for name, value in EXPORTED.items() if name.endswith("Profiler")}
ESTIMATORS = {value for name, value in EXPORTED.items() if name.startswith("estimate_")}
COUNTERS = _classes(op_counter.BaseCounter) - PROFILERS
EVERY = sorted(COUNTERS | PROFILERS | ESTIMATORS, key=lambda item: item.__name__)
READINGS = (
    "get_counts",
    "get_total",
    "get_metric_counts",
    "get_projection_counts",
    "get_stage_stats",
    "get_report",
)


def made(counter):
    """A counter with its default settings."""
    if counter is op_counter.SpikeSimCounter:
        return counter(config=op_counter.SpikeSimEnergyConfig(), strict=False)
    return counter()


def readings(counter):
    """Everything that a counter says, under the names of its methods."""
    said = {name: getattr(counter, name)() for name in READINGS if hasattr(counter, name)}
    return {
        name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
        for name, value in said.items()
    }


def mode(counter, net):
    """The context in which a counter counts."""
    if isinstance(counter, op_counter.ModuleCounter):
        return op_counter.ModuleCounterMode([counter], model=net)
    return op_counter.DispatchCounterMode([counter])


def measured(item, net, x, run=None):
    """What a counter, a profiler or an estimator says of a network, or how it refuses.

    Args:
        item: The class or the function.
        net: The network; it is reset first.
        x: Its input.
        run: What is counted; by default one call without gradients.
    """
    functional.reset_net(net)
    torch.manual_seed(0)
    try:
        if item in ESTIMATORS:
            return dataclasses.asdict(item(net, x))
        counter = made(item)
        if item not in PROFILERS:
            with mode(counter, net):
                _run(net, x, run)
            return readings(counter)
        if hasattr(counter, "bind_model"):
            counter.bind_model(net)
        with counter:
            _run(net, x, run)
        return readings(counter)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        return type(error), str(error)


def _run(net, x, run):
    if run is not None:
        run(net, x)
        return
    with torch.no_grad():
        net(x)
