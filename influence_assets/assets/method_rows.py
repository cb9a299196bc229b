"""What assets share that are attribution methods of their own: when they are due, and the rows that they write."""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from influence_assets.engine.definition import Work
from influence_assets.study import Study

BYTES_PER_SCORE = 20
"""Bytes of a row of Parquet: the score and the sequence's id do not compress, the query's name does."""

FORWARD_PASS = 1 / 3
"""What a forward pass alone counts of a pass."""


def listed(name: str) -> Callable[[Study], bool]:
    """Return whether a study lists a method, as `AssetDefinition.is_requested` asks."""
    return lambda study: name in study.methods


def write_scores(
    work: Work,
    query_ids: Sequence[str],
    passages: pl.DataFrame,
    scores: NDArray[np.float64],
    *,
    sequence_passes: float,
    generation_id: int | None = None,
) -> None:
    """Write the tables `method_scores` and `method_part_scores` of the asset's method.

    A sequence's score is the sum of those of its passages.

    Args:
        work: the work of an asset that is a method.
        query_ids: the queries.
        passages: what is scored: `sequence_id`, and `document_id` if the method divides a sequence among its documents,
            with one row for each document of a sequence. One document's rows of one sequence may be several; they are
            added up.
        scores: float64 [query, passage]; positive helps.
        sequence_passes: how many forward and backward passes of single sequences computing them took, for the method's
            cost; a forward pass alone counts as a third.
        generation_id: the generation whose curvature was used; None if none was.

    Raises:
        ValueError: the asset is no method, or a score is not finite.
    """
    method = work.asset.method
    if method is None:
        raise ValueError(f"{work.asset.name} is not a method")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} scores of {method.name} are not finite")
    described = [
        pl.lit(generation_id, pl.Int32).alias("generation_id"),
        pl.lit(method.name).alias("method"),
        pl.lit(method.unit, pl.String).alias("unit"),
    ]

    def summed(passages: pl.DataFrame, scores: NDArray[np.float64]) -> pl.DataFrame:
        places = passages.with_row_index("row").group_by(passages.columns, maintain_order=True).agg("row")
        totals = np.stack([scores[:, rows.to_numpy()].sum(1) for rows in places["row"]], 1) if len(places) else scores
        pairs = pl.DataFrame({"query_id": list(query_ids)}, schema={"query_id": pl.String}).join(
            places.drop("row"), how="cross", maintain_order="left_right"
        )
        return pairs.with_columns(*described, pl.Series("score", totals.reshape(-1), pl.Float64))

    work.draft.table("method_scores", summed(passages.select("sequence_id"), scores))
    if "document_id" in passages.columns:
        of_sequence = pl.col("document_id").n_unique().over("sequence_id")
        shared = passages.select(of_sequence > 1).to_series().to_numpy()
        named = passages.select("sequence_id", "document_id").filter(shared)
        work.draft.table("method_part_scores", summed(named, scores[:, shared]))
    work.draft.summarise(
        queries=len(query_ids),
        sequences=passages["sequence_id"].n_unique(),
        sequence_passes=sequence_passes,
    )
