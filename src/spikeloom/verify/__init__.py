"""Proofs about spiking networks: folding, freedom from multiplications, energy."""

from spikeloom.verify.fold import fold_norms

__all__ = ["fold_norms"]
