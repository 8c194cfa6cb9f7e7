"""Training and compression with several processes, in plain torch and in three trainers."""
