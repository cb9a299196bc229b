"""Answers a stored question from the catalogue, which has its exact scores."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from influence_assets.analysis.noise import Noise
from influence_assets.analysis.shrinkage import C
from influence_assets.api.answer import Answer, OverMembers
from influence_assets.api.cautions import cautions
from influence_assets.api.passages import Scored, passages, stored, trained_documents
from influence_assets.engine.versions import Versions
from influence_assets.storage.catalogue import query, refuse_unknown

_STRONGEST = """
    select found.sequence_id, found.shard_id, sequences.sequence_index, found.influence_nats
    from strongest($query_id, $top, unseen := $unseen) as found
    inner join sequences using (sequence_id)
    order by rank
"""
_TOKENS = """
    select sequence_id, list(influence_nats order by token_position) as by_token
    from token_influence
    where query_id = $query_id and list_contains($sequences, sequence_id)
    and generation_id in (select generation_id from generations where is_current)
    group by sequence_id
"""
_PARTS = """
    select distinct sequence_id, documents.document_id, influence_nats
    from current_scores_by_document
    inner join documents using (document_key)
    where query_id = $query_id and list_contains($sequences, sequence_id)
"""
_NOISE = """
    select sequences, median_nats, sigma_nats, threshold_nats, sequences_above,
        [calibrated(score, sigma_nats, c := $c::double) for score in $scores::double[]] as calibrated_nats
    from query_noise
    where query_id = $query_id
"""
_OVER_MEMBERS = """
    select sequence_id, members, influence_nats, low_nats, high_nats
    from ensemble_scores
    where query_id = $query_id and list_contains($sequences, sequence_id)
"""
_QUESTION = """
    select prompt, completion, log_probability_nats, completion_tokens,
        (select count(*) from sequences) as sequences,
        (select count(distinct document_id) from documents where not trained_on) as unseen
    from queries
    where query_id = $query_id
"""


def strongest(versions: Versions, query_id: str, top: int, *, unseen: bool = False) -> Answer:
    """Return the training sequences that raise a stored query's completion most, by their exact scores.

    Args:
        versions: the study's versions.
        query_id: the query.
        top: the largest number of passages.
        unseen: also return passages with documents that the study's own model was not trained on.

    Raises:
        StorageError: there is no catalogue, or the tokens of a passage are missing.
        InputError: there is no such query; the error names the nearest.
    """
    path = versions.workspace.catalogue
    refuse_unknown(path, "queries", "query_id", query_id)
    (question,) = query(path, _QUESTION, {"query_id": query_id}).to_dicts()
    rows = query(path, _STRONGEST, {"query_id": query_id, "top": top, "unseen": unseen})
    chosen = {"query_id": query_id, "sequences": rows["sequence_id"].to_list()}
    splits = dict(query(path, _TOKENS, chosen).iter_rows())
    parts: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for sequence, document, part in query(path, _PARTS, chosen).iter_rows():
        parts[sequence][document] = part
    noise, calibrated = _noise(path, query_id, rows["influence_nats"].to_list())
    scored = [
        Scored(
            row["shard_id"],
            row["sequence_index"],
            row["influence_nats"],
            by_token=_split(splits.get(row["sequence_id"])),
            by_document=parts[row["sequence_id"]],
            calibrated_nats=calibrated_nats,
        )
        for row, calibrated_nats in zip(rows.iter_rows(named=True), calibrated, strict=True)
    ]
    found = passages(versions, scored, trained_documents(stored(versions, "language_model")))
    over_members = _over_members(path, chosen)
    return Answer(
        question["prompt"],
        question["completion"],
        question["log_probability_nats"],
        question["completion_tokens"],
        [replace(passage, over_members=over_members.get(passage.sequence_id)) for passage in found],
        question["sequences"],
        0 if unseen else question["unseen"],
        cautions=cautions(path),
        noise=noise,
    )


def _over_members(path: Path, chosen: Mapping[str, object]) -> dict[int, OverMembers]:
    """Return the scores of some sequences over the members of the ensemble, by sequence; empty without an ensemble."""
    if not _has_view(path, "ensemble_scores"):
        return {}
    return {sequence: OverMembers(*figures) for sequence, *figures in query(path, _OVER_MEMBERS, chosen).iter_rows()}


def _has_view(path: Path, name: str) -> bool:
    """Return whether the catalogue has a view; it may be of an earlier release."""
    return query(path, "select 1 from duckdb_views() where view_name = $name", {"name": name}).height > 0


def _noise(path: Path, query_id: str, scores: list[float]) -> tuple[Noise | None, Sequence[float | None]]:
    """Return a query's noise, and scores of the query with their noise shrunk."""
    if not _has_view(path, "query_noise"):
        return None, [None] * len(scores)
    c = query(path, "select c from calibration").item() if _has_view(path, "calibration") else C
    rows = query(path, _NOISE, {"query_id": query_id, "scores": scores, "c": c}).rows()
    if not rows:
        return None, [None] * len(scores)
    *figures, calibrated = rows[0]
    return Noise(*figures), calibrated


def _split(by_token: list[float] | pl.Series | None) -> np.ndarray | None:
    return None if by_token is None else np.asarray(by_token, np.float64)
