"""What a network really computes: folding, multiplication-free proofs, energy."""
