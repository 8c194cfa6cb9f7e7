"""compare: two networks on one input, spike by spike."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from spikeloom.hosted import copied, output_of, to_rest
from spikeloom.modules import is_neuron, takes_steps, watched_calls
from spikeloom.report import Report

__all__ = ["ComparisonReport", "compare"]

COLUMNS = ("in A", "in B", "values", "spikes in A", "spikes in B", "differing", "first step")
OUTPUT = "output"


@dataclass
class ComparisonReport(Report):
    """Where two networks differ: a row for each neuron in the order of their calls, and the output.

    Attributes:
        ok: Whether all outputs are equal, to the bit.
    """

    ok: bool = True

    def as_dict(self) -> dict[str, Any]:
        """What ``to_json`` writes."""
        return {**super().as_dict(), "ok": self.ok}


def compare(a: nn.Module, b: nn.Module, sample: Tensor) -> ComparisonReport:
    """Run two networks on one input and compare what every neuron fires, value by value.

    The n-th neuron that runs in A is compared with the n-th in B, whatever their names; if the
    networks have different numbers of neurons, only their outputs are compared. Copies of the
    networks run, in evaluation mode and from rest. A network whose neurons take single steps is
    called once for each step.

    Args:
        a: A network of any framework, or one that :func:`spikeloom.export.from_nir` made.
        b: The other one.
        sample: Input ``[T, batch, *]``.

    Returns:
        The report: the number of values, the spikes on either side (values that are not 0), how
        many values differ, and the first step at which one does.

    Raises:
        TypeError: If an argument has the wrong type, or a network returns no tensor.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikeloom import SpikingLayer, neurons
        >>> from spikeloom.verify import compare
        >>> a, b = (nn.Sequential(SpikingLayer(neurons.LIF(tau=tau))) for tau in (2.0, 4.0))
        >>> print(compare(a, b, torch.ones(4, 1, 1) * 1.5))
        Spikes of Sequential and Sequential
        in A    in B    values  spikes in A  spikes in B  differing  first step
        ------  ------  ------  -----------  -----------  ---------  ----------
        0       0            4            2            1          1           1
        output  output       4            2            1          1           1
        1 of 4 values of the output differ.
    """
    for name, model in (("a", a), ("b", b)):
        if not isinstance(model, nn.Module):
            raise TypeError(f"{name}: must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(sample, Tensor) or sample.dim() < 2:
        raise TypeError(f"sample: must be a tensor [T, batch, *], got {_kind(sample)}")
    in_a, in_b = (_outputs(name, model, sample) for name, model in (("a", a), ("b", b)))
    report = ComparisonReport(f"Spikes of {type(a).__name__} and {type(b).__name__}", COLUMNS)
    if len(in_a) != len(in_b):
        report.notes.append(
            f"A has {len(in_a) - 1} neurons and B has {len(in_b) - 1}, so only the outputs are "
            f"compared."
        )
        in_a, in_b = ({OUTPUT: found[OUTPUT]} for found in (in_a, in_b))
    for (name, y), (other, z) in zip(in_a.items(), in_b.items(), strict=True):
        report.add(name, other, *_row(y, z))
    _conclude(report, in_a[OUTPUT], in_b[OUTPUT])
    return report


def _row(y: Tensor, z: Tensor) -> tuple[Any, ...]:
    fired = int(y.count_nonzero()), int(z.count_nonzero())
    if y.shape != z.shape:
        return y.numel(), *fired, None, None
    unlike = _differs(y, z)
    steps = unlike.reshape(len(unlike), -1).any(1).nonzero()
    return y.numel(), *fired, int(unlike.sum()), int(steps[0]) if len(steps) else None


def _differs(y: Tensor, z: Tensor) -> Tensor:
    """Where two outputs differ; NaN equals NaN."""
    return (y != z) & ~(y.isnan() & z.isnan())


def _conclude(report: ComparisonReport, y: Tensor, z: Tensor) -> None:
    if y.shape != z.shape:
        report.ok = False
        report.notes.append(f"The outputs have the shapes {list(y.shape)} and {list(z.shape)}.")
        return
    count = int(_differs(y, z).sum())
    report.ok = not count
    report.notes.append(
        f"{count} of {y.numel()} values of the output differ."
        if count
        else "The outputs are equal."
    )
    if not y.any() and not z.any():
        report.notes.append("Neither output holds a spike, so their equality proves nothing.")


def _kind(value: Any) -> str:
    return f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


# --- What a network's neurons and its output emit -----------------------------------------------


def _outputs(name: str, model: nn.Module, sample: Tensor) -> dict[str, Tensor]:
    """The output of every neuron in the order in which they first run, and the network's own."""
    with torch.no_grad():
        if callable(getattr(model, "signals", None)):
            return _signals(model, sample)
        has_steps = any(takes_steps(module) for module in model.modules())
        try:
            found, has_run_once = _watched(name, model, sample, stepwise=False)
        except (RuntimeError, ValueError, IndexError):
            if not has_steps:
                raise
            has_run_once = True
        if has_run_once and has_steps and len(sample) > 1:
            found, _ = _watched(name, model, sample, stepwise=True)
    return found


def _signals(model: Any, sample: Tensor) -> dict[str, Tensor]:
    """The signals of a network that names them itself, as those made of NIR graphs do."""
    signals = model.signals(sample)
    neurons = {key: y for key, y in signals.items() if is_neuron(model.part(key))}
    return {**neurons, OUTPUT: signals[model.plan.output]}


def _watched(
    name: str, model: nn.Module, sample: Tensor, stepwise: bool
) -> tuple[dict[str, Tensor], bool]:
    """Run a copy; also whether a neuron that takes steps was called only once."""
    network = copied(name, model).eval()
    to_rest(network)
    calls: dict[str, list[Tensor]] = {}
    with ExitStack() as stack:
        for key, module in _neurons(network):
            stack.enter_context(_heard(module, calls, key or type(module).__name__))
        y = _stepped(network, sample) if stepwise else network(sample)
    first = next((leaf for leaf in tree_leaves(y) if isinstance(leaf, Tensor)), None)
    if first is None:
        raise TypeError(f"{name}: must return a tensor, got {type(y).__name__}")
    once = any(
        takes_steps(module) and len(calls.get(key, ())) == 1 for key, module in _neurons(network)
    )
    found = {key: ys[0] if len(ys) == 1 else torch.stack(ys) for key, ys in calls.items()}
    return {**found, OUTPUT: first}, once


def _neurons(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The outermost neurons."""
    inside: list[str] = []
    for name, module in network.named_modules():
        if is_neuron(module) and not any(name.startswith(outer) for outer in inside):
            inside.append(f"{name}." if name else "")
            yield name, module


def _heard(module: nn.Module, calls: dict[str, list[Tensor]], name: str) -> Any:
    """Keep what a neuron emits at each call."""

    def keep(output: Any) -> None:
        if isinstance(y := output_of(output), Tensor):
            calls.setdefault(name, []).append(y.detach().clone())

    return watched_calls(module, lambda args, kwargs, whole: None, keep)


def _stepped(network: nn.Module, sample: Tensor) -> Tensor:
    """Call a network once for each step, and hand it back its state if it wants one."""
    wants_state = "state" in inspect.signature(network.forward).parameters
    outputs, state = [], ()
    for x in sample.unbind(0):
        result = network(x, *state)
        state = result[1:2] if wants_state else ()
        outputs.append(output_of(result))
    return torch.stack(outputs)
