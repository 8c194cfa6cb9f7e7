"""Proofs about spiking networks: folding, freedom from multiplications, energy, isometry."""

from spikeloom.verify.comparison import ComparisonReport, compare
from spikeloom.verify.energy import EnergyCosts, count_energy
from spikeloom.verify.fold import fold_norms
from spikeloom.verify.isometry import Isometry, measure_isometry
from spikeloom.verify.mfi import check_mfi

__all__ = [
    "ComparisonReport",
    "EnergyCosts",
    "Isometry",
    "check_mfi",
    "compare",
    "count_energy",
    "fold_norms",
    "measure_isometry",
]
