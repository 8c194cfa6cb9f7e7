"""spikeloom's neurons as snnTorch modules."""
