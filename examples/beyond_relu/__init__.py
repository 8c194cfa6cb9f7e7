"""What the signGD examples share: networks, their training, data, and ways to convert."""
