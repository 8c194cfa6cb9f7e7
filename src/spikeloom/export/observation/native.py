"""The frameworks' own leaky neurons as descriptions, found by class name.

So a model that was built and trained without spikeloom is exported with the same care. Nothing is
imported from a framework, and a subclass is not taken for its base.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from spikeloom.kernel.neuron import Neuron, Parameter
from spikeloom.neurons.lif import IF, LIF, Leaky, LIFBox, ParametricLIF

__all__ = ["native_neuron", "native_rest"]


def _sj_lif(module: Any) -> Neuron:
    return LIF(
        float(module.tau),
        module.v_threshold,
        module.v_reset,
        decay_input=module.decay_input,
    )


def _sj_plif(module: Any) -> Neuron:
    rate = module.w.detach().sigmoid()
    return ParametricLIF(rate, module.v_threshold, module.v_reset, decay_input=module.decay_input)


def _sj_if(module: Any) -> Neuron:
    return IF(module.v_threshold, module.v_reset)


def _leaky(module: Any) -> Neuron | None:
    if module.inhibition or module.state_quant:
        return None
    return Leaky(
        module.beta.detach(),
        module.threshold.detach(),
        module.reset_mechanism,
        module.reset_delay,
        graded_spikes_factor=module.graded_spikes_factor.detach(),
    )


def _lif_box(module: Any) -> Neuron | None:
    methods = {"reset_value": "value", "reset_subtract": "subtract"}
    p = module.p
    method = methods.get(getattr(p.reset_method, "__name__", ""))
    if method is None:
        return None
    return LIFBox(p.tau_mem_inv, p.v_leak, p.v_th, p.v_reset, method, dt=float(module.dt))


NATIVE: dict[str, Callable[[Any], Neuron | None]] = {
    "spikingjelly.LIFNode": _sj_lif,
    "spikingjelly.ParametricLIFNode": _sj_plif,
    "spikingjelly.IFNode": _sj_if,
    "snntorch.Leaky": _leaky,
    "norse.LIFBoxCell": _lif_box,
}


def native_neuron(module: nn.Module) -> Neuron | None:
    """The description of a framework's own neuron; None if it is none that we know.

    Args:
        module: Any module.
    """
    cls = type(module)
    describe = NATIVE.get(f"{cls.__module__.split('.')[0]}.{cls.__name__}")
    return None if describe is None else describe(module)


def native_rest(module: nn.Module, neuron: Neuron) -> Parameter | None:
    """Where the potential of a neuron begins: Norse's own begin at their leak potential.

    Args:
        module: Any module.
        neuron: Its description.
    """
    if isinstance(neuron, LIFBox) and native_neuron(module) is not None:
        return neuron.params["v_leak"]
    return next(iter(neuron.rest.values()), None)
