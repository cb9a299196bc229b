"""Measures how often a true article is ranked first: by influence, by the plain gradient product and by BM25.

The manual repeats itself, so every article that contains the question's sentence verbatim counts as true.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from influence_assets.analysis.word_overlap import bm25_scores
from influence_assets.storage.catalogue import query

METHODS = ("ekfac", "gradient_dot", "bm25")
TEN = 10

QUESTIONS = """
    select query_id, prompt, completion, metadata->>'article' as article, metadata->>'$.articles[*]' as articles
    from queries
    order by query_id
"""
PASSAGES = """
    -- a sequence is packed from several documents: all their titles, in the order of the text
    select sequences.sequence_id, sequences.text, list(documents.title order by token_start) as titles
    from sequence_documents
    inner join sequences using (sequence_id)
    inner join documents using (shard_id, document_id)
    group by all
    order by sequence_id
"""
LEADERS = """
    -- the document with the largest influence on each question, of those that the model was trained on
    select query_id, arg_max(title, influence_nats) as title
    from influence_by_document
    where trained_on is not false
    group by query_id
"""
SCORES = """
    select 'ekfac' as method, query_id, sequence_id, influence_nats as score from current_scores
    union all
    select method, query_id, sequence_id, score from baseline_scores
"""


@dataclass(frozen=True)
class Retrieval:
    """How well a method finds passages of articles that contain the question's sentence.

    Args:
        method: `ekfac`, `gradient_dot` or `bm25`.
        first: number of questions whose strongest passage is of a true article.
        in_ten: number of questions with a passage of a true article among the strongest ten.
        median_rank: median over questions of the rank of the strongest passage of a true article.
        of_ten: mean over questions of the number of passages of a true article among the strongest ten.
        questions: number of questions.
    """

    method: str
    first: int
    in_ten: int
    median_rank: float
    of_ten: float
    questions: int


def ranked_passages(catalogue: Path) -> pl.DataFrame:
    """Rank every passage for every question by every method.

    Returns:
        Columns `method`, `query_id`, `articles`, `rank` (1 is the strongest), `score`, `titles`, `text`.
    """
    questions, passages = query(catalogue, QUESTIONS), query(catalogue, PASSAGES)
    scores = pl.concat([query(catalogue, SCORES), _bm25(questions, passages)])
    rank = pl.col("score").rank("ordinal", descending=True).over("method", "query_id")
    return (
        scores.with_columns(rank=rank)
        .join(questions.select("query_id", "articles"), on="query_id")
        .join(passages, on="sequence_id")
        .sort("method", "query_id", "rank")
    )


def retrieval(ranked: pl.DataFrame) -> list[Retrieval]:
    """Return the figures of every method that has scores."""
    questions = ranked["query_id"].n_unique()
    by_question = (
        ranked.filter(pl.col("articles").list.set_intersection("titles").list.len() > 0)
        .group_by("method", "query_id")
        .agg(best=pl.col("rank").min(), of_ten=(pl.col("rank") <= TEN).sum())
    )
    figures = []
    for method in METHODS:
        rows = by_question.filter(pl.col("method") == method)
        if not rows.is_empty():
            best, of_ten = rows["best"].to_numpy(), rows["of_ten"].to_numpy()
            first, in_ten = int((best == 1).sum()), int((best <= TEN).sum())
            figures.append(
                Retrieval(method, first, in_ten, float(np.median(best)), of_ten.sum() / questions, questions)
            )
    return figures


def led_by_true_articles(catalogue: Path) -> int:
    """Return for how many questions the document that leads `influence_by_document` is a true article."""
    leaders = query(catalogue, LEADERS).join(query(catalogue, QUESTIONS), on="query_id")
    return leaders.filter(pl.col("articles").list.contains(pl.col("title"))).height


def _bm25(questions: pl.DataFrame, passages: pl.DataFrame) -> pl.DataFrame:
    """Return the BM25 scores of every passage for every question, which is its prompt and completion."""
    texts = [f"{row['prompt']}{row['completion']}" for row in questions.to_dicts()]
    scores = bm25_scores(list(passages["text"]), texts)
    return pl.DataFrame(
        {
            "method": ["bm25"] * scores.size,
            "query_id": np.repeat(questions["query_id"].to_numpy(), passages.height),
            "sequence_id": np.tile(passages["sequence_id"].to_numpy(), questions.height),
            "score": scores.reshape(-1),
        },
        schema={"method": pl.String, "query_id": pl.String, "sequence_id": pl.Int64, "score": pl.Float64},
    )
