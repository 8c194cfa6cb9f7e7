"""Batch norm into weights, thresholds and pools, where that is exact.

In eval mode a batch norm is ``y = a u + d`` with one pair ``(a, d)`` for each feature. Behind a
weight layer with the same feature axis it is part of the weights; in front of a neuron it is part
of the threshold; in front of a weight layer, pools between, it is part of that layer's weights.
"""

from spikeloom.verify.fold.recipe import fold_norms
from spikeloom.verify.fold.shift import FeatureShift

__all__ = ["FeatureShift", "fold_norms"]
