"""BM25: how well the words of a query match those of a passage, without any model."""

from collections.abc import Sequence

import bm25s  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray


def words_of(texts: Sequence[str]) -> list[list[str]]:
    """Return the words of each text in lower case: runs of two or more letters, digits and underscores."""
    tokenized = bm25s.tokenize(list(texts), stopwords=[], return_ids=False, show_progress=False)
    return [list(words) for words in tokenized]


def bm25_scores(passages: Sequence[str], queries: Sequence[str]) -> NDArray[np.float64]:
    """Return the BM25 score of every passage for every query (Lù 2024, bm25s), without stop words or stemming.

    Returns:
        float64 [query, passage].
    """
    retriever = bm25s.BM25()
    retriever.index(words_of(passages), show_progress=False)
    none = np.zeros(len(passages))  # bm25s takes no query without a word
    return np.stack([retriever.get_scores(words) if words else none for words in words_of(queries)]).astype(np.float64)
