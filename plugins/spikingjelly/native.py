"""SpikingJelly's own neurons in the place of ours."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.hosted import to_rest
from spikeloom.modules import values_of

from ..native import Counterparts, Differs, NativeNeurons, replaced
from .node import SpikeloomNode
from .surrogate import host_form, kernel_form

__all__ = ["COUNTERPARTS", "function_of", "habits_of", "number_of", "to_host", "twin_of"]

COUNTERPARTS = Counterparts("SpikingJelly")


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
    ``QIF``, ``EIF``, ``Izhikevich``        ``QIFNode``, ``EIFNode``, ``IzhikevichNode``
    ``KLIF``                                ``KLIFNode``; the same ``k``
    ``CurrentLIF``                          ``CUBALIFNode``
    ``SimpleLIFNode``                       ``SimpleLIFNode``
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


def twin_of(module: SpikeloomNode) -> nn.Module | None:
    """SpikingJelly's own neuron that equals one of ours in all that counters count, if there is.

    It shares the learned tensors and the surrogate function.

    Args:
        module: Ours.
    """
    if not getattr(module.neuron, "fires_at_threshold", False):
        return None
    try:
        return COUNTERPARTS(module)
    except Differs:
        return None


def function_of(module: SpikeloomNode) -> Any:
    """The surrogate function of SpikingJelly's by which a neuron of ours fires.

    Args:
        module: Ours.

    Raises:
        Differs: If SpikingJelly has none such.
    """
    neuron: Any = module.neuron
    if called := getattr(neuron, "function", None):
        return called
    given = getattr(module, "surrogate_function", None)
    if kernel_form(given):
        return given
    function = host_form(neuron.surrogate)
    if function is None:
        raise Differs(f"SpikingJelly has no surrogate function {neuron.surrogate}")
    return function


def habits_of(module: SpikeloomNode) -> dict[str, Any]:
    """The arguments that every node has.

    Args:
        module: Ours.
    """
    return {"step_mode": module.step_mode, "store_v_seq": module.store_v_seq}


def number_of(module: SpikeloomNode, name: str) -> float:
    """A parameter as SpikingJelly keeps it.

    Args:
        module: Ours.
        name: The parameter.

    Raises:
        Differs: If it is learned, or not one number for all neurons and steps.
    """
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


NATIVE = NativeNeurons("SpikingJelly", (SpikeloomNode,), COUNTERPARTS, _run)
