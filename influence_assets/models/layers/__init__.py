"""Kinds of layers, one a file: each defines `LAYER_RULE`, a `LayerRule` (the contract is in `rule.py`)."""
