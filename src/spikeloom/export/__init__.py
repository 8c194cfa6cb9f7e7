"""Trained networks as NIR graphs: written, read back and compared."""
