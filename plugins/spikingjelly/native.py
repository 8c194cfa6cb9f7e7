"""SpikingJelly's own neurons in the place of ours."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from spikingjelly.activation_based import neuron as host
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

from spikeloom import neurons
from spikeloom.hosted import to_rest
from spikeloom.modules import values_of

from ..native import Differs, NativeNeurons, replaced
from .few_spike import few_spike_tables
from .lif import HostFiredIF, HostFiredLIF, HostFiredParametricLIF, HostFires
from .node import SpikeloomNode
from .surrogate import host_form, kernel_form

__all__ = ["to_host"]


def to_host(net: nn.Module, sample: Tensor | None = None) -> nn.Module:
    """A copy of a network with SpikingJelly's own neurons, for what knows only those.

    SpikingJelly's exporter to NIR and its fused precision settings take exactly its own classes,
    none that are derived from them, as our integrate-and-fire nodes are. Its counters count other
    neurons of ours by their own steps; in the copy they count SpikingJelly's. Weights are copied;
    the neurons are at rest, in the same step mode, and learn what they learned. Each is run beside
    ours on random input and on input that meets the threshold, and must fire the same spikes. Hooks
    on replaced neurons stay with the original.

    ======================================  =======================================================
    ours                                    SpikingJelly's
    ======================================  =======================================================
    ``LIF``, firing at the threshold        ``LIFNode``; tau above 1
    ``IF``, firing at the threshold         ``IFNode``
    ``ParametricLIF``, at the threshold     ``ParametricLIFNode``; the same ``w`` if ours has one,
                                            else that of the rate
    ``ElasticBiSpike``, alpha 1, symmetric  ``TernaryLIFNode`` for a decay of 1/2, 3/4, 7/8 and so
                                            on, ``TernaryIFNode`` for 1
    ``OAT``, ``HG`` with ``tie="ge"``       ``OutlierAwareThresholdNode``, ``HGNode``: equal spikes,
                                            SpikingJelly's gradients
    ======================================  =======================================================

    Surrogate functions are SpikingJelly's of the same name. A shared value that is a tensor, such
    as a threshold, becomes a number if it is not learned.

    Args:
        net: The network; it is not changed.
        sample: An input on which the whole networks are compared, as for :func:`export_to_nir`;
            None compares the neurons only.

    Raises:
        NoCounterpart: If SpikingJelly has no neuron equal to one of ours; all are listed.
        TypeError: If an argument has the wrong type.
        ValueError: If the network cannot be copied, or does not run on the sample.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikeloom.plugins.spikingjelly import LIFNode, to_host
        >>> net = nn.Sequential(nn.Linear(3, 2), LIFNode(tau=4.0))
        >>> to_host(net, torch.rand(8, 3))[1]
        LIFNode(
          v_threshold=1.0, v_reset=0.0, detach_reset=False, step_mode=s, tau=4.0
          (surrogate_function): Sigmoid(alpha=4.0, spiking=True)
        )
    """
    return replaced(net, sample, NATIVE)


def integrate_and_fire(module: SpikeloomNode) -> nn.Module | None:
    """SpikingJelly's integrate-and-fire neuron that equals one of ours; None if there is none.

    It shares the learned tensors and the surrogate function.

    Args:
        module: Ours.
    """
    build = INTEGRATE_AND_FIRE.get(type(module.neuron))
    try:
        return build and build(module)
    except Differs:
        return None


def _build(module: SpikeloomNode) -> nn.Module:
    kind = type(module.neuron)
    if kind not in NODES:
        raise Differs(f"SpikingJelly has no {module.neuron.name}")
    return NODES[kind](module)


def _fire(module: SpikeloomNode) -> dict[str, Any]:
    """What SpikingJelly's integrate-and-fire nodes share."""
    neuron: Any = module.neuron
    if not neuron.fires_at_threshold:
        raise Differs("it fires above the threshold, SpikingJelly's at the threshold")
    return {
        "v_threshold": _number(module, "v_threshold"),
        "v_reset": neuron.v_reset,
        "surrogate_function": _function(module),
        "detach_reset": neuron.detach_reset,
        **_habits(module),
    }


def _if(module: SpikeloomNode) -> nn.Module:
    return host.IFNode(**_fire(module))


def _lif(module: SpikeloomNode) -> nn.Module:
    neuron: Any = module.neuron
    if "tau" not in neuron.params:
        return _if(module)
    tau = _number(module, "tau")
    if tau <= 1.0:
        raise Differs(f"its tau is {tau}, SpikingJelly's is above 1")
    return host.LIFNode(tau, decay_input=neuron.decay_input, **_fire(module))


def _parametric(module: SpikeloomNode) -> nn.Module:
    neuron: Any = module.neuron
    native = host.ParametricLIFNode(decay_input=neuron.decay_input, **_fire(module))
    if isinstance(w := getattr(module, "w", None), nn.Parameter):
        native.w = w
        return native
    rate = torch.tensor(_number(module, "rate"))
    native.w = nn.Parameter(rate.logit())
    if not (native.w.isfinite() and native.w.sigmoid() == rate):
        raise Differs(f"its rate is {float(rate)}, of which no w of SpikingJelly's is the logit")
    return native


def _ternary(module: SpikeloomNode) -> nn.Module:
    neuron: Any = module.neuron
    if neuron.reset != "symmetric":
        raise Differs('SpikingJelly\'s ternary neurons reset after both signs, reset="symmetric"')
    if (alpha := _number(module, "alpha")) != 1.0:
        raise Differs(f"SpikingJelly's ternary spikes are of height 1, its alpha is {alpha}")
    settings = {
        # Ours fires above half the amplitude, SpikingJelly's at the threshold.
        "v_threshold": float(torch.tensor(0.5).nextafter(torch.tensor(1.0))),
        # Gradients pass straight through for potentials of at most 1.
        "surrogate_function": surrogate.Rect(alpha=1.0),
        "detach_reset": True,
        **_habits(module),
    }
    if neuron.decay == 1.0:
        return host.TernaryIFNode(**settings)
    tau = 1.0 / (1.0 - neuron.decay)
    if tau == 1.0 or math.frexp(tau)[0] != 0.5:
        raise Differs(
            f"SpikingJelly's leak is 1 - 1 / tau and exact for tau a power of two, "
            f"its decay is {neuron.decay}"
        )
    return host.TernaryLIFNode(tau, decay_input=False, **settings)


def _oat(module: SpikeloomNode) -> nn.Module:
    neuron: Any = module.neuron
    _require_ge(neuron)
    for name, only in (("rounding", "truncate"), ("spikes", "weighted")):
        if getattr(neuron, name) != only:
            raise Differs(
                f"SpikingJelly has {name}={only!r} only, it has {getattr(neuron, name)!r}"
            )
    if len(neuron.ranges) > 2:
        raise Differs(f"SpikingJelly has two ranges, it has {len(neuron.ranges)}")
    reaches = {name: _number(module, name) for name in neuron.ranges}
    tables = few_spike_tables(neuron.replace(**reaches))
    ends = min(reaches.values()), max(reaches.values())
    return host.OutlierAwareThresholdNode(tables[0], tables[-1], *ends, step_mode=module.step_mode)


def _hg(module: SpikeloomNode) -> nn.Module:
    neuron: Any = module.neuron
    _require_ge(neuron)
    if neuron.low is not None or neuron.high is not None:
        raise Differs("it ends at low and high, SpikingJelly's ranges have no end")
    settings = neuron.settings()
    if settings["origins"].any() or settings["constants"].any():
        raise Differs("SpikingJelly's tables have neither origins nor constants")
    return host.HGNode(few_spike_tables(neuron), neuron.boundaries, step_mode=module.step_mode)


def _few_spike(module: SpikeloomNode) -> nn.Module:
    raise Differs(
        "what it has not sent it keeps for the next call, SpikingJelly's FewSpikeNode forgets it"
    )


def _require_ge(neuron: Any) -> None:
    if neuron.tie != "ge":
        raise Differs('it fires above the threshold, SpikingJelly\'s at it; make it with tie="ge"')


def _function(module: SpikeloomNode) -> Any:
    neuron: Any = module.neuron
    if isinstance(neuron, HostFires):
        return neuron.function
    given = getattr(module, "surrogate_function", None)
    if kernel_form(given):
        return given
    function = host_form(neuron.surrogate)
    if function is None:
        raise Differs(f"SpikingJelly has no surrogate function {neuron.surrogate}")
    return function


def _habits(module: SpikeloomNode) -> dict[str, Any]:
    return {"step_mode": module.step_mode, "store_v_seq": module.store_v_seq}


def _number(module: SpikeloomNode, name: str) -> float:
    """A parameter as SpikingJelly keeps it."""
    value = values_of(module)[name]
    if isinstance(value, Tensor) and not value.dim() and not value.requires_grad:
        return float(value)
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, Tensor) and not value.dim():
        raise Differs(
            f"its {name} is learned, SpikingJelly's is a number; freeze it with "
            f"{name}.requires_grad_(False)"
        )
    raise Differs(f"its {name} is not one number for all neurons and steps, as SpikingJelly's is")


def _run(node: Any, x: Tensor) -> Tensor:
    """Spikes in both step modes."""
    node = copy.deepcopy(node)
    node.step_mode = "s"
    singles = torch.stack([node(now) for now in x])
    to_rest(node)
    node.step_mode = "m"
    # SpikingJelly's few-spike nodes take as many steps as their tables have.
    steps = getattr(getattr(node, "neuron", node), "steps", getattr(node, "K", None))
    return torch.cat([singles.flatten(), node(x[:steps]).flatten()])


INTEGRATE_AND_FIRE = {
    neurons.LIF: _lif,
    HostFiredLIF: _lif,
    neurons.ParametricLIF: _parametric,
    HostFiredParametricLIF: _parametric,
    neurons.IF: _if,
    HostFiredIF: _if,
}
NODES = {
    **INTEGRATE_AND_FIRE,
    neurons.ElasticBiSpike: _ternary,
    neurons.OAT: _oat,
    neurons.HG: _hg,
    neurons.FewSpike: _few_spike,
}
NATIVE = NativeNeurons("SpikingJelly", (SpikeloomNode,), _build, _run)
