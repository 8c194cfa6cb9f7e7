"""Neurons that only spikeloom reads, inside a valid NIR graph.

An extension is a nested graph that states the neuron's class and settings in its metadata. NIR
asks readers not to rely on metadata, so what other readers find inside is a threshold that nothing
reaches: instead of something similar they compute silence. A file can name spikeloom's own neurons
only, so that reading one never imports anything.
"""

from __future__ import annotations

import json
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor

from spikeloom import neurons
from spikeloom.kernel.neuron import Neuron, PerStep, tensor_of
from spikeloom.neurons import schedules

__all__ = ["is_extension", "neuron_in", "node_of"]

KIND = "spikeloom.neuron"
# All that a file may name. Asking ``neurons`` itself would load what other packages offer there.
OWN = {
    name: cls
    for name, cls in ((name, getattr(neurons, name)) for name in neurons.__all__)
    if isinstance(cls, type) and issubclass(cls, Neuron)
}


def node_of(
    neuron: Neuron, settings: dict[str, Any], shape: tuple[int, ...]
) -> nir.NIRGraph | None:
    """A neuron as an extension; None if it cannot be rebuilt from what a file can hold.

    Args:
        neuron: The description.
        settings: The arguments that make it.
        shape: Its shape for one sample.
    """
    name = type(neuron).__name__
    if OWN.get(name) is not type(neuron) or neuron.begin or neuron.inputs > 1:
        return None
    try:
        text = json.dumps({key: _plain(value) for key, value in settings.items()})
    except TypeError:
        return None
    size = np.array(shape)
    return nir.NIRGraph(
        nodes={
            "input": nir.Input(input_type=size),
            "nothing": nir.Threshold(threshold=np.full(shape, np.finfo(np.float32).max)),
            "output": nir.Output(output_type=size),
        },
        edges=[("input", "nothing"), ("nothing", "output")],
        metadata={"kind": KIND, "neuron": name, "settings": text},
    )


def is_extension(graph: nir.NIRGraph) -> bool:
    """Whether a nested graph stands for a neuron of ours."""
    return isinstance(graph.metadata, dict) and graph.metadata.get("kind") == KIND


def neuron_in(graph: nir.NIRGraph) -> Neuron:
    """The neuron that an extension stands for.

    Args:
        graph: A nested graph for which :func:`is_extension` holds.

    Raises:
        ValueError: If it names no neuron of this version, or its settings do not fit.
    """
    name = str(graph.metadata.get("neuron", ""))
    if name not in OWN:
        raise ValueError(
            f"extension: this version of spikeloom has no neuron {name!r}; "
            f"a file may name spikeloom's own only"
        )
    cls = OWN[name]
    try:
        settings = json.loads(str(graph.metadata["settings"]))
        if not isinstance(settings, dict):
            raise TypeError(f"they are a {type(settings).__name__}, no object")
        return cls(**{key: _rebuilt(value) for key, value in settings.items()})
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"extension: the settings of {name} do not fit: {error}") from error


def _plain(value: Any) -> Any:
    """A setting as JSON; tensors and schedules are marked by their class."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (PerStep, Tensor)):
        tensor = tensor_of(value)
        assert tensor is not None
        kind = "PerStep" if isinstance(value, PerStep) else "Tensor"
        return {"is": kind, "values": tensor.detach().cpu().double().tolist()}
    if type(value).__name__ in schedules.__all__:
        return {"is": type(value).__name__, **{k: _plain(v) for k, v in vars(value).items()}}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    raise TypeError(f"cannot be written: {value!r}")


def _rebuilt(value: Any) -> Any:
    if isinstance(value, list):
        return [_rebuilt(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind, rest = value.get("is"), {k: _rebuilt(v) for k, v in value.items() if k != "is"}
    if kind in ("PerStep", "Tensor"):
        values = torch.tensor(rest["values"], dtype=torch.float32)
        return PerStep(values) if kind == "PerStep" else values
    if kind not in schedules.__all__:
        raise ValueError(f"unknown setting {kind!r}")
    return getattr(schedules, kind)(**rest)
