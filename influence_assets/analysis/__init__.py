"""Analyses of finished scores. Uses neither models nor files."""
