"""The two forms of a converted network, decoded or spike by spike."""

from __future__ import annotations

from torch import nn

from spikeloom.convert.las.attention import Attention
from spikeloom.convert.las.calls.kinds import Product, SoftmaxCall
from spikeloom.convert.las.layers import Activation, Spiking
from spikeloom.convert.las.sites import Site
from spikeloom.hosted import Make
from spikeloom.neurons.arguments import checked_choice

__all__ = ["FORMED", "set_form"]

# What computes with decoded spikes or step by step.
FORMED = (Spiking, Attention, Product, SoftmaxCall)


def set_form(network: nn.Module, form: str, make: Make | None = None) -> None:
    """Compute with decoded spikes (fast) or step by step (the meaning); the results agree.

    Args:
        network: A converted network.
        form: ``"decoded"`` or ``"spikes"``.
        make: Builds the modules that fire the spikes of sites and activations, such as
            ``spikeloom.plugins.norse.make``. They become children called ``node``, which the
            host's monitors and hooks see, until the form is set again. Softmax and norms fire
            by their own tables.

    Raises:
        ValueError: If the form is neither, or is not ``"spikes"`` and ``make`` is given.
    """
    checked_choice("set_form: form", form, ("decoded", "spikes"))
    if make is not None and form != "spikes":
        raise ValueError(f"set_form: make needs the form 'spikes', got {form!r}")
    for module in list(network.modules()):
        if isinstance(module, FORMED):
            module.form = form
        if isinstance(module, (Site, Activation)):
            module.fire_through(make)
