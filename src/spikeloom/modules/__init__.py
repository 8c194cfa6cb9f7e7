"""What a module is, whatever framework it belongs to: its neuron, and how it takes time and state.

A framework's classes are described once, beside the framework's plugin; everything else asks here.
"""

from spikeloom.layer import SpikingLayer
from spikeloom.modules.calls import named_as, watched_calls
from spikeloom.modules.circuit import Circuit, circuit_of, linear_of, neuron_within
from spikeloom.modules.conventions import Conventions, Framework, carried
from spikeloom.modules.identity import (
    is_neuron,
    methods_of,
    neuron_of,
    override_of,
    response_of,
    takes_steps,
    values_of,
)
from spikeloom.modules.proof import why_unlike, why_unregistered
from spikeloom.modules.registry import (
    base_of,
    conventions_of,
    described_classes,
    framework_of,
    frameworks,
    is_describable,
    register,
    register_framework,
    registered,
    undescribed,
)

__all__ = [
    "Circuit",
    "Conventions",
    "Framework",
    "base_of",
    "carried",
    "circuit_of",
    "conventions_of",
    "described_classes",
    "framework_of",
    "frameworks",
    "is_describable",
    "is_neuron",
    "linear_of",
    "methods_of",
    "named_as",
    "neuron_of",
    "neuron_within",
    "override_of",
    "register",
    "register_framework",
    "registered",
    "response_of",
    "takes_steps",
    "undescribed",
    "values_of",
    "watched_calls",
    "why_unlike",
    "why_unregistered",
]

register(SpikingLayer, Conventions())
