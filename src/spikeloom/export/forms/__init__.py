"""How each neuron and layer is written as NIR nodes."""
