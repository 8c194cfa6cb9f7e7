"""spikeloom's neurons as SpikingJelly modules."""
