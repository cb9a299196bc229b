"""Measurements of the model: hooks, passes, losses, and the sums taken over each layer."""
