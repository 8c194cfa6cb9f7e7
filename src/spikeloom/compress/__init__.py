"""Compression of trained spiking networks, a file per idea."""
