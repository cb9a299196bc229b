"""Slow and obviously right."""
