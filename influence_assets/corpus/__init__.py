"""The corpus: source files, documents, token sequences and query sets."""
