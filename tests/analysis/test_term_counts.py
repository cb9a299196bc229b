"""BM25 from counts that add up, against bm25s over the texts."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from influence_assets.analysis.term_counts import CorpusCounts, PassageCounts
from influence_assets.analysis.word_overlap import bm25_scores, words_of

PASSAGES = [
    "The lamp of the tower turns once in ten seconds.",
    "A baker rises at three; the dough rests under a cloth, and the baker sleeps.",
    "",
    "Ships count the lamp, the lamp, THE LAMP!",
    "Größer, naïver, lauter als je: 🌊 x y z",
    "the",
]
QUERIES = ["Which lamp turns, which lamp rests?", "the baker", "nothing of that", "größer als the tower"]


def counts_of(shard):
    of_passages = PassageCounts.of(shard)
    frequencies = dict(of_passages.frequencies().rows())
    return of_passages, CorpusCounts(len(shard), int(of_passages.lengths.sum()), frequencies)


@pytest.mark.parametrize("bounds", [(0, 6), (0, 2, 6), (0, 1, 1, 3, 6)])
def test_scores_of_any_shards_are_those_of_all_texts(bounds):
    shards = [PASSAGES[start:stop] for start, stop in pairwise(bounds)]
    of_shards = [counts_of(shard) for shard in shards]
    total = CorpusCounts.total(counts for _, counts in of_shards)
    found = np.concatenate([total.scores(shard, words_of(QUERIES)) for shard, _ in of_shards], axis=1)
    np.testing.assert_allclose(found, bm25_scores(PASSAGES, QUERIES), rtol=2e-6, atol=1e-7)  # bm25s is in float32
    assert (found[[0, 1, 3]].max(axis=1) > 0).all()


def test_counts_are_those_of_the_words():
    of_passages, corpus = counts_of(PASSAGES)
    for number, text in enumerate(PASSAGES):
        words = words_of([text])[0]
        counts = dict(of_passages.counts.filter(pl.col("passage") == number).select("word", "count").rows())
        assert counts == {word: words.count(word) for word in words}
        assert of_passages.lengths[number] == len(words)
    assert corpus.frequencies["the"] == sum("the" in words for words in words_of(PASSAGES)) == 4


def test_only_the_counts_of_the_queries_words_are_needed():
    of_passages, corpus = counts_of(PASSAGES)
    needed = {word for words in words_of(QUERIES) for word in words}
    few = PassageCounts(of_passages.counts.filter(pl.col("word").is_in(needed)), of_passages.lengths)
    frequencies = {word: count for word, count in corpus.frequencies.items() if word in needed}
    of_few = CorpusCounts(corpus.passages, corpus.words, frequencies).scores(few, words_of(QUERIES))
    np.testing.assert_array_equal(of_few, corpus.scores(of_passages, words_of(QUERIES)))


def test_passages_and_queries_without_words_score_nothing():
    of_passages, corpus = counts_of(["", "?!"])
    assert not corpus.scores(of_passages, [["lamp"], []]).any()
    of_passages, corpus = counts_of(PASSAGES)
    assert not corpus.scores(of_passages, [[]]).any()
    assert not bm25_scores(PASSAGES, ["?"]).any()
