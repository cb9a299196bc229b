"""Decides what a study asks for, what of it is outstanding, and computes it. Knows no asset by name, and no torch."""
