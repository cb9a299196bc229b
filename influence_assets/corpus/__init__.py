"""Reads the corpus and the queries: source files, documents, token sequences and query sets."""
