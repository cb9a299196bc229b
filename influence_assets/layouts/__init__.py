"""The layouts of values in artifacts, shared by the assets that write them and those that read them."""

LARGEST_QUERIES_BYTES = 4 * 2**30
"""Bytes in memory of the query gradients that are held at a time; further queries get passes of their own."""

METHODS_OF_STATES = frozenset({"repsim", "knn_shapley", "representer_points"})
"""The methods that read hidden states, which are computed for a study that lists one of them."""
