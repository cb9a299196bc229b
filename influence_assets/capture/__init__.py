"""Where the model runs: loading, training, layer rules, hooks and measurements."""
