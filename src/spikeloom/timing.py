"""time_layer: what a layer of neurons costs on this machine, in each implementation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from spikeloom.kernel.call import run
from spikeloom.kernel.choose import choose
from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.values import checked_count
from spikeloom.report import Report

__all__ = ["time_layer"]


def time_layer(
    neuron: Neuron,
    steps: int = 16,
    neurons: int = 100_000,
    rounds: int = 15,
    device: str | torch.device = "cpu",
) -> Report:
    """Time the forward and backward pass of one layer, beside a copy of its input.

    All candidates take turns in every round, and the best round of each counts. The implementation
    that ``"auto"`` takes on the device stands beside ``"eager"``, the step on torch tensors.

    Args:
        neuron: The description.
        steps: T.
        neurons: How many neurons the layer has.
        rounds: How many rounds.
        device: Where to run.

    Returns:
        A report: for each candidate the milliseconds of its best and of its median round, and the
        best as a multiple of a copy's.

    Raises:
        TypeError: If a number is no whole one.
        ValueError: If a number is below 1.

    Example:
        >>> from spikeloom import neurons
        >>> from spikeloom.timing import time_layer
        >>> time_layer(neurons.LIF(), steps=2, neurons=8, rounds=1).column("what")
        ['llvm', 'eager', 'copy']
    """
    counts = {"steps": steps, "neurons": neurons, "rounds": rounds}
    for name, count in counts.items():
        checked_count(name, count)
    x = torch.rand(steps, neurons, generator=torch.Generator().manual_seed(0)).mul_(2).to(device)
    implementation, _ = choose("auto", str(x.device), neuron.reason)
    names = dict.fromkeys((implementation, "eager"))
    candidates = {name: _pass(neuron, x, name) for name in names} | {"copy": x.clone}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for name, milliseconds in _rounds(candidates, rounds, x.device):
        times[name].append(milliseconds)
    report = Report(
        f"{neuron.name}, forward and backward, T={steps}, N={neurons}, {x.device}, "
        f"{torch.get_num_threads()} threads",
        ("what", "best ms", "median ms", "best / copy"),
    )
    for name, found in times.items():
        median = sorted(found)[len(found) // 2]
        report.add(name, min(found), median, min(found) / min(times["copy"]))
    return report


def _pass(neuron: Neuron, x: Tensor, implementation: str) -> Callable[[], object]:
    grad = torch.ones_like(x)

    def forward_and_backward() -> None:
        leaf = x.detach().requires_grad_()
        y, _ = run(neuron, leaf, implementation=implementation)
        y.backward(grad)

    return forward_and_backward


def _rounds(
    candidates: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> Iterator[tuple[str, float]]:
    """The milliseconds of every candidate in every round, after one that is not counted."""
    for number in range(rounds + 1):
        for name, function in candidates.items():
            start = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                yield name, 1e3 * (time.perf_counter() - start)
