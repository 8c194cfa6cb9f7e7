"""Whole networks."""

from spikeloom.models.spiking_mlp import SpikingMLP

__all__ = ["SpikingMLP"]
