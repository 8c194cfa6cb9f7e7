"""Who reads a file, and what each reader makes of it."""
