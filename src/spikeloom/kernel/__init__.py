"""One step in, spikes and gradients out."""
