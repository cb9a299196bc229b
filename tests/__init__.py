"""Tests, mirroring the package; `cases` and `oracles` are shared by them."""
