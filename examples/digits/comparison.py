"""spikeloom's neuron beside the framework's own: speed, memory, spikes."""

import statistics
import time
from dataclasses import dataclass
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from .data import STEPS, Digits
from .hosts import Host, Way
from .training import BATCH, HIDDEN, build, training_step


@dataclass(frozen=True, eq=False)
class Box:
    """A tensor that autograd keeps."""

    tensor: Tensor


def step_times(host: Host, digits: Digits, rounds: int) -> tuple[float, float]:
    """Median milliseconds of a training step, with our neuron and with the host's own.

    They take turns, so that whatever else the machine does meets both alike.
    """
    images, labels = digits.train_images[:BATCH], digits.train_labels[:BATCH]
    steps = [training_step(way, build(way)) for way in (host.ours, host.own)]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for step, found in zip(steps, times, strict=True):
            start = time.perf_counter()
            step(images, labels)
            found.append(1e3 * (time.perf_counter() - start))
    ours, own = map(statistics.median, times)
    return ours, own


def kept_for_backward(way: Way) -> float:
    """Bytes that a layer of neurons keeps for the backward pass, relative to its input."""
    layer = way.network(way.neuron())
    x = torch.rand(STEPS, BATCH, HIDDEN, requires_grad=True)
    boxes: WeakSet[Box] = WeakSet()

    def pack(tensor: Tensor) -> Box:
        box = Box(tensor)
        boxes.add(box)
        return box

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        spikes = way.run(layer, x)
    # Boxes of graphs that were cut off meanwhile, as by a detached reset, are gone again.
    storages = [box.tensor.untyped_storage() for box in boxes]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    del spikes  # not earlier: with it goes the graph
    return sum(sizes.values()) / x.nbytes


def differing_spikes(host: Host, network: nn.Module, x: Tensor) -> int:
    """How many output spikes change when the host's own neurons take the places of ours."""
    own = build(host.own)
    vector_to_parameters(parameters_to_vector(network.parameters()), own.parameters())
    with torch.no_grad():
        return int((host.ours.run(network, x) != host.own.run(own, x)).sum())
