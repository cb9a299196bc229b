"""Language models: loading, training and hashing of model folders, and the layers that can be attributed."""
