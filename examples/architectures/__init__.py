"""Small random models of the types of transformers, and what becomes of them under LAS."""
