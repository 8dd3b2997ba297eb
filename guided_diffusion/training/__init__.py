"""Training: one loop, and an objective for each kind of network."""
