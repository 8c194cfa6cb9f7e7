"""A trained SNN made smaller: one-shot pruning and quantisation."""
