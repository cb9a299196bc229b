"""Layer rules: one file a kind of layer that can be attributed."""
