"""How a membrane responds below its threshold: the filter that a layer's error passes through.

Neurons of SpikingJelly, snnTorch, Norse and NIR are known by the name of their class and package,
and read by their attributes, so that none of these needs to be installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.kernel.neuron import Neuron
from spikeloom.layer import current_parameters
from spikeloom.neurons import LIF, Leaky, LIFBox, ParametricLIF, Trace

__all__ = ["Response", "UnknownNeuron", "is_neuron", "linear_response", "reads_sequences"]

Value = float | Tensor


class UnknownNeuron(ValueError):
    """A neuron whose decay cannot be read; the message says how to state it."""


@dataclass(frozen=True, eq=False)
class Response:
    r"""What a membrane does with its input while it neither fires nor resets.

    .. math:: i[t] = \alpha\, i[t-1] + x[t],\qquad v[t] = \lambda\, v[t-1] + g\, i[t]

    Attributes:
        decay: :math:`\lambda`; a tensor has a value for each neuron.
        synaptic_decay: :math:`\alpha`; None: there is no synaptic stage, i = x.
        gain: g.
    """

    decay: Value
    synaptic_decay: Value | None = None
    gain: Value = 1.0

    def trace(self) -> Trace:
        """The filter without its gain."""
        return Trace(self.decay, self.synaptic_decay)


def linear_response(unit: Any, dt: float | None = None) -> Response:
    """Read the sub-threshold filter of a neuron.

    Args:
        unit: A neuron module of SpikingJelly, snnTorch, Norse or spikeloom, a description from
            :mod:`spikeloom.neurons`, or a node of a NIR graph.
        dt: Step in seconds, needed for NIR nodes only.

    Returns:
        Its decays and its gain.

    Raises:
        UnknownNeuron: If the class is not known. A subclass of a known class is known as long as it
            defines nothing but a constructor.
        ValueError: If a NIR node comes without dt.

    Example:
        >>> from spikeloom import neurons
        >>> from spikeloom.compress import linear_response
        >>> linear_response(neurons.LIF(tau=4.0))
        Response(decay=0.75, synaptic_decay=None, gain=0.25)
    """
    description = unit if isinstance(unit, Neuron) else getattr(unit, "neuron", None)
    if isinstance(description, Neuron):
        values: dict[str, Any] = dict(description.params)
        if isinstance(unit, nn.Module):
            values.update(current_parameters(unit, description))
        for cls, read in _DESCRIPTIONS.items():
            if _has_step_of(description, cls):
                return _plain(read(description, values))
    else:
        key = _known_class(unit)
        if key in _NIR:
            if dt is None:
                raise ValueError("dt: needed for a NIR node, the step in seconds")
            return _plain(_NIR[key](unit, dt))
        if key in _MODULES:
            return _plain(_MODULES[key](unit))
    shown = description if isinstance(description, Neuron) else type(unit).__name__
    raise UnknownNeuron(
        f"{shown}: its decay is not known; state it, for example "
        "calibrate(..., traces={'name of the module': neurons.Trace(0.9)})"
    )


def is_neuron(module: nn.Module) -> bool:
    """Whether a module is a neuron of a host or of spikeloom, known or not."""
    if isinstance(getattr(module, "neuron", None), Neuron):
        return True
    classes = [(cls.__module__, cls.__name__) for cls in type(module).__mro__]
    return any(
        origin.startswith(("spikingjelly.activation_based.neuron", "snntorch._neurons"))
        or (origin.startswith("norse.") and name in _NORSE_BASES)
        for origin, name in classes
    )


def reads_sequences(module: nn.Module) -> bool | None:
    """Whether a neuron takes ``[T, batch, ...]``, or one step; None if that cannot be told."""
    if hasattr(module, "step_mode"):
        return bool(module.step_mode == "m")
    if hasattr(module, "time_first"):
        return bool(module.time_first)
    packages = {cls.__module__.partition(".")[0] for cls in type(module).__mro__}
    if "snntorch" in packages:
        return False
    if "norse" in packages:
        return not type(module).__name__.endswith("Cell")
    return True if hasattr(module, "neuron") else None


def _has_step_of(neuron: Any, cls: Any) -> bool:
    # A subclass with a step of its own is another neuron.
    return isinstance(neuron, cls) and type(neuron)._step is cls._step


def _plain(response: Response) -> Response:
    """The same with a float for every tensor of one value."""
    values = (response.decay, response.synaptic_decay, response.gain)
    return Response(*(_number(value) for value in values))


def _number(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return None if value is None else float(value)
    value = value.detach().double()
    return float(value) if value.numel() == 1 else value


def _known_class(unit: Any) -> tuple[str, str]:
    """Package and name of the class whose dynamics a unit has."""
    for cls in type(unit).__mro__:
        key = (cls.__module__.partition(".")[0], cls.__name__)
        if key in _MODULES or key in _NIR:
            return key
        if any(callable(value) and name not in _HARMLESS for name, value in vars(cls).items()):
            break
    return ("", "")


# What a subclass may define without changing its dynamics.
_HARMLESS = {"__init__", "__repr__", "extra_repr"}

_NORSE_BASES = {"SNNCell", "SNN", "SNNRecurrentCell", "SNNRecurrent", "LILinearCell"}


# --- How each class is read -------------------------------------------------------------------


def _lif(neuron: Any, p: dict[str, Any]) -> Response:
    if "tau" not in neuron.params:
        return Response(1.0)
    return Response(1 - 1 / p["tau"], gain=1 / p["tau"] if neuron.decay_input else 1.0)


def _parametric(neuron: Any, p: dict[str, Any]) -> Response:
    return Response(1 - p["rate"], gain=p["rate"] if neuron.decay_input else 1.0)


_DESCRIPTIONS: dict[Any, Callable[[Any, dict[str, Any]], Response]] = {
    LIF: _lif,
    ParametricLIF: _parametric,
    Leaky: lambda neuron, p: Response(_clamped(p["beta"])),
    LIFBox: lambda neuron, p: _euler(p["dt"], p["tau_mem_inv"]),
    Trace: lambda neuron, p: Response(p["decay"], p.get("synaptic_decay")),
}


def _spikingjelly(share: Callable[[Any], Value]) -> Callable[[Any], Response]:
    """A SpikingJelly neuron that loses this share of its potential at each step."""

    def read(node: Any) -> Response:
        lost = share(node)
        return Response(1 - lost, gain=lost if getattr(node, "decay_input", True) else 1.0)

    return read


def _norse(cell: Any) -> Response:
    return _euler(cell.dt, cell.p.tau_mem_inv, getattr(cell.p, "tau_syn_inv", None))


def _nir(node: Any, dt: float) -> Response:
    tau = _double(node.tau if hasattr(node, "tau") else node.tau_mem)
    synaptic = 1 - dt / _double(node.tau_syn) if hasattr(node, "tau_syn") else None
    return Response(1 - dt / tau, synaptic, _double(node.r) * dt / tau)


_lif_node = _spikingjelly(lambda node: 1 / node.tau)

_MODULES: dict[tuple[str, str], Callable[[Any], Response]] = {
    ("spikingjelly", "LIFNode"): _lif_node,
    ("spikingjelly", "SimpleLIFNode"): _lif_node,
    ("spikingjelly", "NonSpikingLIFNode"): _lif_node,
    ("spikingjelly", "ParametricLIFNode"): _spikingjelly(lambda node: node.w.detach().sigmoid()),
    ("spikingjelly", "IFNode"): lambda node: Response(1.0),
    ("spikingjelly", "SimpleIFNode"): lambda node: Response(1.0),
    ("spikingjelly", "NonSpikingIFNode"): lambda node: Response(1.0),
    ("snntorch", "Leaky"): lambda cell: Response(_clamped(cell.beta)),
    ("snntorch", "Synaptic"): lambda cell: Response(_clamped(cell.beta), _clamped(cell.alpha)),
    ("norse", "LIFBoxCell"): _norse,
    ("norse", "LIBoxCell"): _norse,
    ("norse", "LIFCell"): _norse,
    ("norse", "LIF"): _norse,
    ("norse", "LICell"): _norse,
    ("norse", "LI"): _norse,
    ("norse", "IAFCell"): lambda cell: Response(1.0),
    ("norse", "IAF"): lambda cell: Response(1.0),
}

_NIR: dict[tuple[str, str], Callable[[Any, float], Response]] = {
    ("nir", "LIF"): _nir,
    ("nir", "LI"): _nir,
    ("nir", "CubaLIF"): _nir,
    ("nir", "CubaLI"): _nir,
    ("nir", "IF"): lambda node, dt: Response(1.0),
    ("nir", "I"): lambda node, dt: Response(1.0),
}


def _clamped(decay: Value) -> Tensor:
    return _double(decay).clamp(0, 1)


def _double(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).detach()


def _euler(dt: float, inverse: Value, synaptic_inverse: Value | None = None) -> Response:
    """One Euler step of a leaky membrane, behind an exponential synapse if one is given."""
    share = dt * _double(inverse)
    synaptic = None if synaptic_inverse is None else 1 - dt * _double(synaptic_inverse)
    return Response(1 - share, synaptic, share)
