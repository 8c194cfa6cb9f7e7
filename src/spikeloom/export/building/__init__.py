"""From what was observed to a graph that computes the same."""
