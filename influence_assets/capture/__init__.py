"""Where the model is measured: hooks, passes, losses, and what is summed of each layer."""
