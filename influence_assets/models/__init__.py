"""Language models in a folder: loading, training, hashing, and the layers that can be attributed."""
