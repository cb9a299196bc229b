"""Layer rules: one file for each kind of layer that can be attributed."""
