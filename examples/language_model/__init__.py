"""What the comparison of a converted language model is made of."""
