"""What a model does: which signals reach which modules, found by running it once."""
