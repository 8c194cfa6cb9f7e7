"""NIR graphs: what their nodes mean, in which order they run, and how they are stored."""
