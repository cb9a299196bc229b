"""BM25 from counts of words that add up: a passage that comes or goes leaves the counts of all others as they are.

The score of a passage of l words for a query is, with N passages of l̄ words on average, of which df_w hold the word w
(Robertson & Zaragoza 2009; the form of Lucene, which bm25s takes by default),

    Σ_{w in query} log(1 + (N − df_w + ½)/(df_w + ½)) · tf_w / (tf_w + k₁ (1 − b + b l/l̄)).

N, N l̄ and df add up over shards (`CorpusCounts`); tf and l are the passage's own (`PassageCounts`). A word that a query
has twice counts twice. Agrees with `word_overlap.bm25_scores` over the same passages.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from influence_assets.analysis.word_overlap import words_of

K1, B = 1.5, 0.75
"""Those of bm25s."""

COUNT_SCHEMA = pl.Schema({"passage": pl.UInt32, "word": pl.String, "count": pl.UInt32})
DOCUMENT_FREQUENCY_SCHEMA = pl.Schema({"word": pl.String, "passages": pl.UInt32})


@dataclass(frozen=True)
class PassageCounts:
    """How often each word is in each of some passages.

    Args:
        counts: columns `passage` (its number), `word` and `count`, one row for each word that a passage has.
        lengths: int64 [passage], the number of words.
    """

    counts: pl.DataFrame
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str]) -> "PassageCounts":
        """Return the counts of passages."""
        words = words_of(texts)
        lengths = np.array([len(each) for each in words], np.int64)
        passage = np.repeat(np.arange(len(words), dtype=np.uint32), lengths)
        every = pl.DataFrame(
            {"passage": passage, "word": [word for each in words for word in each]},
            schema={"passage": pl.UInt32, "word": pl.String},
        )
        counts = every.group_by("passage", "word").agg(pl.len().cast(pl.UInt32).alias("count"))
        return cls(counts.sort("passage", "word").match_to_schema(COUNT_SCHEMA), lengths)

    def frequencies(self) -> pl.DataFrame:
        """Return how many of the passages have each word: columns `word` and `passages`."""
        counted = self.counts.group_by("word").agg(pl.len().cast(pl.UInt32).alias("passages"))
        return counted.sort("word").match_to_schema(DOCUMENT_FREQUENCY_SCHEMA)


@dataclass(frozen=True)
class CorpusCounts:
    """What a score takes of the whole corpus, for the words of some queries.

    Args:
        passages: the number of passages.
        words: the number of words in all of them.
        frequencies: how many passages have each word.
    """

    passages: int
    words: int
    frequencies: dict[str, int]

    @classmethod
    def total(cls, shards: "Iterable[CorpusCounts]") -> "CorpusCounts":
        """Return the counts of all shards together."""
        passages, words, frequencies = 0, 0, dict[str, int]()
        for shard in shards:
            passages, words = passages + shard.passages, words + shard.words
            for word, count in shard.frequencies.items():
                frequencies[word] = frequencies.get(word, 0) + count
        return cls(passages, words, frequencies)

    def scores(self, of_passages: PassageCounts, queries: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        """Return the scores of some of the corpus's passages for queries, given as words: float64 [query, passage].

        Args:
            of_passages: the passages' counts, at least those of the queries' words.
            queries: the words of each query.
        """
        scores = np.zeros((len(queries), len(of_passages.lengths)))
        asked = pl.DataFrame(
            {
                "query": np.repeat(np.arange(len(queries)), [len(words) for words in queries]),
                "word": [word for words in queries for word in words],
            },
            schema={"query": pl.Int64, "word": pl.String},
        )
        asked = asked.group_by("query", "word").agg(times=pl.len()).sort("query", "word")
        found = asked.join(of_passages.counts, on="word", maintain_order="left_right")
        if not found.height:
            return scores
        df = np.array([self.frequencies[word] for word in found["word"]], np.float64)
        tf, passage = found["count"].to_numpy().astype(np.float64), found["passage"].to_numpy()
        relative = of_passages.lengths[passage] / (self.words / self.passages)
        rarity = np.log(1 + (self.passages - df + 0.5) / (df + 0.5))
        each = found["times"].to_numpy() * rarity * tf / (tf + K1 * (1 - B + B * relative))
        np.add.at(scores, (found["query"].to_numpy(), passage), each)
        return scores
