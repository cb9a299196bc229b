"""How the values of assets lie in their artifacts, for those who write and read them."""

LARGEST_QUERIES_BYTES = 4 * 2**30
"""Query gradients, as they lie on disk, that are held at a time; those of further queries get passes of their own."""
