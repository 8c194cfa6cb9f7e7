"""The parts of the demo: data, three frameworks, training, exchange, pictures."""
