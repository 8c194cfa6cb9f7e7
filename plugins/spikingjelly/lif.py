"""SpikingJelly's integrate-and-fire neurons, under its names, on our kernel."""

from __future__ import annotations

import math
from typing import Any

import torch
from spikingjelly.activation_based import neuron as host
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

from spikeloom import neurons
from spikeloom.kernel.neuron import Neuron, kind
from spikeloom.kernel.vocabulary import with_nan

from ..adapter import component
from .node import SpikeloomNode
from .surrogate import kernel_form, no_kernel_form, translated

__all__ = ["IFNode", "LIFNode", "ParametricLIFNode"]


class HostFires(Neuron):
    """Mixin: fires through a SpikingJelly function itself, and therefore runs eager.

    Args:
        surrogate: The function.
        settings: The other arguments of the neuron.
    """

    def __init__(self, surrogate: Any, **settings: Any) -> None:
        self.function = surrogate
        super().__init__(**settings)

    def _fire(self, u: Any) -> Any:
        if not isinstance(u, Tensor):
            raise TypeError(no_kernel_form(self.function))
        return with_nan(self.function(u), u)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {**super().settings(), "surrogate": self.function}


class HostFiredLIF(HostFires, neurons.LIF):
    """LIF that fires through a SpikingJelly function."""


class HostFiredIF(HostFires, neurons.IF):
    """IF that fires through a SpikingJelly function."""


class HostFiredParametricLIF(HostFires, neurons.ParametricLIF):
    """ParametricLIF that fires through a SpikingJelly function."""


HOST_FIRED = {
    neurons.IF: HostFiredIF,
    neurons.LIF: HostFiredLIF,
    neurons.ParametricLIF: HostFiredParametricLIF,
}
# By what leaks.
DESCRIBED = {"tau": neurons.LIF, "rate": neurons.ParametricLIF}


class _IntegrateAndFire(SpikeloomNode):
    """The host's arguments as attributes, which may be changed between two calls.

    Args:
        leak: ``tau`` or ``rate``, and ``decay_input``; empty without leak.
        fire: The other arguments of the description, under the host's names.
        habits: The arguments of every node.
    """

    _names: tuple[str, ...] = ()

    def __init__(self, leak: dict[str, Any], fire: dict[str, Any], **habits: Any) -> None:
        function = fire["surrogate_function"]
        fire["surrogate_function"] = surrogate.Sigmoid() if function is None else function
        settings = {**leak, **fire}
        super().__init__(_description(settings), **habits)
        for name, value in settings.items():
            if not hasattr(self, name):  # tensors are registered already
                setattr(self, name, value)
        self._names = tuple(settings)
        self._made_from = _key(settings)
        self._changed = False

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        # A parameter from which a setting is computed may have become one for each neuron.
        if name in self._names or name in self.__dict__.get("_parameters", ()):
            self._changed = True

    @property
    def neuron(self) -> Neuron:
        """The description that the attributes state now."""
        # A surrogate function may also change within.
        if self._changed or _form(self.surrogate_function) != self._made_from[-1]:
            with torch.no_grad():  # a first call keeps no more for its backward pass than others
                settings = {name: self._setting(name) for name in self._names}
            if (key := _key(settings)) != self._made_from:
                self._neuron, self._made_from = _description(settings), key
            self._changed = False
        return self._neuron

    def _setting(self, name: str) -> Any:
        value = getattr(self, name)
        return _described_rate(value) if name in self._computed else value

    def _shown(self) -> str:
        # All arguments, as the host shows them, not those alone that differ from a default.
        return Neuron.__repr__(self._now())


def _key(settings: dict[str, Any]) -> tuple[Any, ...]:
    """What decides a description; a tensor's values are read when the node runs."""
    numbers = (kind(value) if isinstance(value, Tensor) else value for value in settings.values())
    return (*numbers, _form(settings["surrogate_function"]))


def _form(function: Any) -> Any:
    """What a surrogate function computes: a form of ours, or itself."""
    return kernel_form(function) or function


def _description(settings: dict[str, Any]) -> Neuron:
    settings = dict(settings)
    function = settings.pop("surrogate_function")
    if not callable(function) and not hasattr(function, "derivative"):
        raise TypeError(
            f"surrogate_function: must be one of SpikingJelly's or of "
            f"spikeloom.neurons.surrogate, got {function!r}"
        )
    own: Any = next((cls for leak, cls in DESCRIBED.items() if leak in settings), neurons.IF)
    if hasattr(function, "derivative") or kernel_form(function):
        return own(surrogate=translated(function), **settings)
    return HOST_FIRED[own](function, **settings)


def _described_rate(rate: Tensor) -> Tensor:
    """A computed rate as its description can hold it; each call brings the rate itself.

    It is cut from its graph, which could not be copied, and above 0, to which it rounds for a very
    long time constant.
    """
    return rate.detach().clamp_min(torch.finfo(rate.dtype).tiny)


@component("LIF", "W. Gerstner and W. M. Kistler, Spiking Neuron Models, 2002")
class LIFNode(_IntegrateAndFire, host.LIFNode):
    r"""Leaky integrate-and-fire, a drop-in for ``spikingjelly...neuron.LIFNode``.

    .. math::
        h[t] &= v[t-1] + \bigl(x[t] - (v[t-1] - v_\mathrm{reset})\bigr) / \tau \\
        s[t] &= \Theta(h[t] - \theta) \\
        v[t] &= h[t] - s[t]\,\theta \quad\text{(soft)}\qquad
        v[t] = (1 - s[t])\,h[t] + s[t]\,v_\mathrm{reset} \quad\text{(hard)}

    It is a subclass of the host's, and the host's operation counters and energy estimates say of it
    what they say of the host's. The arguments can be read and changed as attributes. Spikes and
    potentials equal the host's bit for bit for float32 and float64 inputs. Potentials of 16-bit
    inputs, also under autocast, are float32 here and 16-bit in the host, where some spikes
    therefore differ.

    Args:
        tau: Membrane time constant in steps, at least 1. Unlike the host's, it may be a tensor
            or Parameter: shared if 0-d, otherwise per neuron, broadcast against ``x.shape[1:]``.
        decay_input: Divide the input by tau too.
        v_threshold: Threshold, a positive number or a tensor like ``tau``.
        v_reset: Potential after a hard reset and at rest; None resets by subtraction.
        surrogate_function: One of SpikingJelly's, by default ``Sigmoid()``, or one of
            :mod:`spikeloom.neurons.surrogate`. A function without a counterpart among ours, or
            with ``spiking=False``, runs itself, step by step; ``implementation_reason`` says so.
        detach_reset: Cut the gradient through the reset.
        step_mode: ``"s"`` or ``"m"``.
        store_v_seq: Keep the potential after every step as ``v_seq``.
        implementation: ``"auto"``, ``"cupy"``, ``"llvm"`` or ``"eager"``.

    Shape:
        - Input and output: ``[N, *]`` in step mode "s", ``[T, N, *]`` in "m".

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If tau < 1, a threshold is not positive, or a value is not finite.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.spikingjelly import LIFNode
        >>> node = LIFNode(tau=2.0, v_reset=None, step_mode="m")
        >>> node(torch.full((5, 1), 1.6)).flatten()
        tensor([0., 1., 0., 1., 0.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.LIFNode``.
    """

    def __init__(
        self,
        tau: float | Tensor = 2.0,
        decay_input: bool = True,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        surrogate_function: Any = None,
        detach_reset: bool = False,
        step_mode: str = "s",
        store_v_seq: bool = False,
        implementation: str = "auto",
    ) -> None:
        super().__init__(
            {"tau": tau, "decay_input": decay_input},
            {
                "v_threshold": v_threshold,
                "v_reset": v_reset,
                "surrogate_function": surrogate_function,
                "detach_reset": detach_reset,
            },
            step_mode=step_mode,
            store_v_seq=store_v_seq,
            implementation=implementation,
        )


@component("IF", "W. Gerstner and W. M. Kistler, Spiking Neuron Models, 2002")
class IFNode(_IntegrateAndFire, host.IFNode):
    r"""Integrate-and-fire without leak, a drop-in for ``spikingjelly...neuron.IFNode``.

    .. math:: h[t] = v[t-1] + x[t]

    It fires and resets as :class:`LIFNode`, whose arguments mean the same here.

    Args:
        v_threshold: Threshold, a positive number or a tensor.
        v_reset: Potential after a hard reset and at rest; None resets by subtraction.
        surrogate_function: As for :class:`LIFNode`.
        detach_reset: Cut the gradient through the reset.
        step_mode: ``"s"`` or ``"m"``.
        store_v_seq: Keep the potential after every step as ``v_seq``.
        implementation: ``"auto"``, ``"cupy"``, ``"llvm"`` or ``"eager"``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a threshold is not positive, or a value is not finite.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.spikingjelly import IFNode
        >>> IFNode(step_mode="m")(torch.full((4, 1), 0.5)).flatten()
        tensor([0., 1., 0., 1.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.IFNode``.
    """

    def __init__(
        self,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        surrogate_function: Any = None,
        detach_reset: bool = False,
        step_mode: str = "s",
        store_v_seq: bool = False,
        implementation: str = "auto",
    ) -> None:
        super().__init__(
            {},
            {
                "v_threshold": v_threshold,
                "v_reset": v_reset,
                "surrogate_function": surrogate_function,
                "detach_reset": detach_reset,
            },
            step_mode=step_mode,
            store_v_seq=store_v_seq,
            implementation=implementation,
        )


@component("PLIF", "W. Fang et al., Incorporating Learnable Membrane Time Constant, ICCV 2021")
class ParametricLIFNode(_IntegrateAndFire, host.ParametricLIFNode):
    r""":class:`LIFNode` with one learned time constant, as SpikingJelly parametrises it.

    .. math::
        h[t] = v[t-1] + \bigl(x[t] - (v[t-1] - v_\mathrm{reset})\bigr)\,\sigma(w),\qquad
        \tau = 1 / \sigma(w)

    ``w`` is the module's parameter, so weights move between this class and SpikingJelly's; another
    Parameter may be put in its place, also one for each neuron. Spikes and potentials equal the
    host's, whatever ``w``, with the reservation about 16-bit inputs in :class:`LIFNode`.

    Args:
        init_tau: Time constant at the start, in steps, above 1.
        decay_input: Divide the input by tau too.
        v_threshold: Threshold, positive.
        v_reset: Potential after a hard reset and at rest; None resets by subtraction.
        surrogate_function: As for :class:`LIFNode`.
        detach_reset: Cut the gradient through the reset.
        step_mode: ``"s"`` or ``"m"``.
        store_v_seq: Keep the potential after every step as ``v_seq``.
        implementation: ``"auto"``, ``"cupy"``, ``"llvm"`` or ``"eager"``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If init_tau <= 1, a threshold is not positive, or a value is not finite.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.spikingjelly import ParametricLIFNode
        >>> node = ParametricLIFNode(init_tau=2.0, step_mode="m")
        >>> node(torch.full((4, 1), 1.5)).detach().flatten()
        tensor([0., 1., 0., 1.])
        >>> list(node.state_dict())
        ['w']

    Source: SpikingJelly 2.0, ``activation_based.neuron.ParametricLIFNode``.
    """

    _computed = frozenset({"rate", "tau"})

    def __init__(
        self,
        init_tau: float = 2.0,
        decay_input: bool = True,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate_function: Any = None,
        detach_reset: bool = False,
        step_mode: str = "s",
        store_v_seq: bool = False,
        implementation: str = "auto",
    ) -> None:
        if not isinstance(init_tau, (int, float)) or not 1.0 < init_tau < math.inf:
            raise ValueError(
                f"ParametricLIFNode: init_tau must be a number above 1, got {init_tau!r}"
            )
        w = torch.as_tensor(-math.log(init_tau - 1.0))
        super().__init__(
            {"rate": _described_rate(w.sigmoid()), "decay_input": decay_input},
            {
                "v_threshold": v_threshold,
                "v_reset": v_reset,
                "surrogate_function": surrogate_function,
                "detach_reset": detach_reset,
            },
            step_mode=step_mode,
            store_v_seq=store_v_seq,
            implementation=implementation,
        )
        # From here on the rate is computed from w, so that only w is saved and trained.
        del self._buffers["rate"]
        self.w = nn.Parameter(w)

    @property
    def rate(self) -> Tensor:
        """The share of its distance that a potential loses in a step, sigmoid(w)."""
        return self.w.sigmoid()

    @property
    def tau(self) -> Tensor:
        """The time constant in steps, 1 / sigmoid(w)."""
        return 1.0 / self.rate

    def _shown(self) -> str:
        given = {name: getattr(self, name) for name in self._names if name != "rate"}
        del given["surrogate_function"]  # shown as a submodule
        others = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return f"tau={float(self.tau.detach()):.6g}, {others}"
