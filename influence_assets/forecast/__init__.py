"""Estimates of what a study will take, from its assets' cost models and from measurements of earlier runs."""
