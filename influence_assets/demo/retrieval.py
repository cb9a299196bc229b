"""Measures how often what is true is ranked first: by influence, by the plain gradient product and by BM25.

The questions are of two kinds. Those about the manual are verbatim sentences of it; every article that contains the
sentence is true, because the manual repeats itself. Those about invented facts are true of the documents that state the
fact, and not of those that have the question's words but say something else.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl

from influence_assets.analysis.word_overlap import bm25_scores
from influence_assets.storage.catalogue import query

KINDS = ("verbatim", "fact")
UNITS = ("passage", "document")
METHODS = ("ekfac", "gradient_dot", "bm25")
TEN = 10

QUESTIONS = """
    select
        query_id,
        prompt,
        completion,
        coalesce(metadata->>'article', metadata->>'fact') as subject,
        if(metadata->>'fact' is null, 'verbatim', 'fact') as kind
    from queries
    order by query_id
"""
TRUE_DOCUMENTS = """
    select queries.query_id, documents.document_key
    from queries
    inner join documents
        on list_contains(queries.metadata->>'$.articles[*]', documents.title)
        or (queries.metadata->>'fact' = documents.metadata->>'fact' and documents.metadata->>'role' = 'states')
"""
PASSAGES = """
    -- a sequence is packed from several documents: all of them, in the order of the text
    select
        sequences.sequence_id as item,
        sequences.text,
        list(documents.title order by token_start) as titles,
        list(documents.document_key order by token_start) as document_keys
    from sequence_documents
    inner join sequences using (sequence_id)
    inner join documents using (shard_id, document_id)
    group by all
    order by item
"""
DOCUMENTS = """
    -- the documents that the model was trained on; their texts, put together from those of their sequences
    with runs as (
        select
            sequences.shard_id,
            sequence_documents.document_id,
            character_start,
            character_end - character_start as characters,
            coalesce(sum(character_end - character_start + 2) over earlier, 0) as preceding,  -- 2: an empty line
            sequences.text
        from sequence_documents
        inner join sequences using (sequence_id)
        where character_end > character_start
        window earlier as (
            partition by sequence_id order by token_start rows between unbounded preceding and 1 preceding
        )
    ),
    texts as (
        select
            document_key as item,
            title,
            string_agg(substring(text, (preceding + 1)::bigint, runs.characters), '' order by character_start) as text
        from runs
        inner join documents using (shard_id, document_id)
        where trained_on is not false
        group by shard_id, document_key, title
    )
    select item, min(text) as text, list(title order by title) as titles, [item] as document_keys
    from texts
    group by item
    order by item
"""
PASSAGE_SCORES = """
    select 'ekfac' as method, query_id, sequence_id as item, influence_nats as score from current_scores
    union all
    select method, query_id, sequence_id, score from method_scores
"""
DOCUMENT_SCORES = """
    -- the noise of each part is shrunk before: a long article has the sum of hundreds
    select 'ekfac' as method, query_id, document_key as item, sum(calibrated_nats) as score
    from scores_with_noise_by_document
    group by query_id, document_key
"""
SOURCES = {"passage": (PASSAGES, PASSAGE_SCORES), "document": (DOCUMENTS, DOCUMENT_SCORES)}


@dataclass(frozen=True)
class Retrieval:
    """How well a method finds what is true for the questions of one kind.

    Args:
        kind: `verbatim` or `fact`.
        unit: what is ranked, `passage` or `document`; a passage is true if it has part of a true document.
        method: `ekfac`, `gradient_dot` or `bm25`.
        first: number of questions whose strongest item is true.
        in_ten: number of questions with a true item among the strongest ten.
        reciprocal_rank: mean over questions of 1 / rank of the strongest true item.
        recall: mean over questions of the share of the true items, of which at most ten count, that is among the
            strongest ten. All parts of a long article are true passages.
        questions: number of questions.
    """

    kind: str
    unit: str
    method: str
    first: int
    in_ten: int
    reciprocal_rank: float
    recall: float
    questions: int


def ranked(catalogue: Path) -> pl.DataFrame:
    """Rank every passage and every document for every question by every method that scores them.

    Returns:
        Columns `kind`, `query_id`, `unit`, `method`, `rank` (1 is the strongest), `score`, `is_true`, `titles`, `text`,
        in this order.
    """
    questions, truths = query(catalogue, QUESTIONS), query(catalogue, TRUE_DOCUMENTS)
    true_documents = truths.group_by("query_id").agg(true_keys="document_key")
    frames = []
    for unit in UNITS:
        items, scores = (query(catalogue, statement) for statement in SOURCES[unit])
        rank = pl.col("score").rank("ordinal", descending=True).over("method", "query_id")
        frames.append(
            pl.concat([scores, _bm25(questions, items)])
            .join(items, on="item")
            .with_columns(rank=rank, unit=pl.lit(unit))
            .drop("item")
        )
    shared = pl.col("true_keys").list.set_intersection("document_keys").list.len()
    return (
        pl.concat(frames)
        .join(questions.select("query_id", "kind"), on="query_id")
        .join(true_documents, on="query_id", how="left")
        .with_columns(is_true=shared.fill_null(0) > 0)
        .select("kind", "query_id", "unit", "method", "rank", "score", "is_true", "titles", "text")
        .sort("kind", "query_id", "unit", "method", "rank")
    )


def retrieval(items: pl.DataFrame) -> list[Retrieval]:
    """Return the figures of all that `ranked` has: of each kind, unit and method."""
    true_rank = pl.col("rank").filter("is_true")
    by_question = items.group_by("kind", "unit", "method", "query_id").agg(
        best=true_rank.min(), found=(true_rank <= TEN).sum(), true=pl.col("is_true").sum()
    )
    figures = []
    for kind, unit, method in product(KINDS, UNITS, METHODS):
        rows = by_question.filter(kind=kind, unit=unit, method=method)
        if not rows.is_empty():
            best = rows["best"].cast(pl.Float64).fill_null(np.inf).to_numpy()
            first, in_ten = int((best == 1).sum()), int((best <= TEN).sum())
            recall = float((rows["found"] / rows["true"].clip(1, TEN)).to_numpy().mean())
            figures.append(Retrieval(kind, unit, method, first, in_ten, float((1 / best).mean()), recall, len(best)))
    return figures


def _bm25(questions: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Return the BM25 scores of every item for every question, which is its prompt and completion."""
    texts = [f"{row['prompt']}{row['completion']}" for row in questions.to_dicts()]
    scores = bm25_scores(list(items["text"]), texts)
    return pl.DataFrame(
        {
            "method": ["bm25"] * scores.size,
            "query_id": np.repeat(questions["query_id"].to_numpy(), items.height),
            "item": np.tile(items["item"].to_numpy(), questions.height),
            "score": scores.reshape(-1),
        },
        schema={"method": pl.String, "query_id": pl.String, "item": items.schema["item"], "score": pl.Float64},
    )
