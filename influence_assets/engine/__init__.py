"""Decides what a study needs and what of it is outstanding, and computes it. Names no asset and imports no torch."""
