"""BM25: how well the words of a query match those of a passage, without any model."""

from collections.abc import Sequence

import bm25s  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray


def bm25_scores(passages: Sequence[str], queries: Sequence[str]) -> NDArray[np.float64]:
    """Return the BM25 score of every passage for every query (Lù 2024, bm25s), without stop words or stemming.

    Returns:
        float64 [query, passage].
    """
    retriever = bm25s.BM25()
    words = bm25s.tokenize(list(passages), stopwords=[], return_ids=False, show_progress=False)
    retriever.index(words, show_progress=False)
    searched = bm25s.tokenize(list(queries), stopwords=[], return_ids=False, show_progress=False)
    return np.stack([retriever.get_scores(tokens) for tokens in searched]).astype(np.float64)
