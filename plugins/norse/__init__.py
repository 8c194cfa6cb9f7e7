"""spikeloom's neurons as Norse modules."""
