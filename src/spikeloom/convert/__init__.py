"""ANN to SNN: a file per recipe."""
