"""Layers alone, calibrated on what they are given, and in their other form."""

from spikeloom.convert.las.layers import Activation
from spikeloom.convert.las.sites import Site


def fitted(layer, *inputs, steps=8):
    """A layer, calibrated on what it is given."""
    layer(*inputs)
    for module in layer.modules():
        if isinstance(module, Site):
            module.fit(steps, 1, "nearest", 1.25)
        if isinstance(module, Activation):
            module.fit(steps, 32, 1.25)
    for module in layer.modules():
        module.observing = False
    return layer


def in_spikes(layer):
    for module in layer.modules():
        module.form = "spikes"
    return layer


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())
