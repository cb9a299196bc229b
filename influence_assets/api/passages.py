"""Passages as they are stored: their text, documents and tokens, read from a shard's artifacts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from influence_assets.api.answer import Passage, TokenSplit
from influence_assets.corpus.packing import DOCUMENT_SEPARATOR
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.errors import StorageError
from influence_assets.storage.artifacts import Artifact

_LONGEST_WORD = 40
DOCUMENT_COLUMNS = ("document_id", "title", "source", "licence", "external_id")


@dataclass(frozen=True, eq=False)
class Scored:
    """A score of a sequence.

    Args:
        shard_id: the shard that it is in.
        sequence_index: its number in the shard, from 0.
        influence_nats: the score.
        by_token: float64 [token], the score's split, if it is known.
        by_document: its documents' parts by document_id, if they are known without the split.
        calibrated_nats: the score with its noise shrunk, if the noise is known.
    """

    shard_id: str
    sequence_index: int
    influence_nats: float
    by_token: NDArray[np.float64] | None = None
    by_document: Mapping[str, float] | None = None
    calibrated_nats: float | None = None


def passages(versions: Versions, scored: list[Scored], trained: frozenset[str] | None) -> list[Passage]:
    """Return the passages of these scores, in the same order.

    Args:
        versions: the study's versions.
        scored: the scores.
        trained: the documents that the model was trained on, or None if they are not known.

    Raises:
        StorageError: a shard's tokens or documents are missing.
    """
    found: dict[tuple[str, int], Passage] = {}
    for shard in dict.fromkeys(each.shard_id for each in scored):
        stored = _Shard(versions, shard)
        of_shard = [each for each in scored if each.shard_id == shard]
        found |= {(shard, each.sequence_index): each_passage for each, each_passage in stored.read(of_shard, trained)}
    return [found[each.shard_id, each.sequence_index] for each in scored]


def trained_documents(language_model: Artifact) -> frozenset[str] | None:
    """Return the ids of the documents that a study's own model was trained on, or None if they are not known."""
    if "trained_documents" not in language_model.manifest.rows:
        return None
    return frozenset(language_model.table("trained_documents").select("document_id").collect()["document_id"])


class _Shard:
    def __init__(self, versions: Versions, shard: str) -> None:
        self.tokens, self.documents = (stored(versions, name, shard) for name in ("token_sequences", "documents"))

    def read(self, scored: list[Scored], trained: frozenset[str] | None) -> list[tuple[Scored, Passage]]:
        chosen = pl.col("sequence_index").is_in([each.sequence_index for each in scored])
        sequences = self.tokens.table("sequences").filter(chosen).collect()
        rows = {row["sequence_index"]: row for row in sequences.iter_rows(named=True)}
        spans = (
            self.tokens.table("sequence_documents")
            .join(sequences.lazy().select("sequence_id"), on="sequence_id", how="semi")
            .join(
                self.documents.table("documents").select(*DOCUMENT_COLUMNS, whole="text"),
                on="document_id",
                maintain_order="left",
            )
            .collect()
            .partition_by("sequence_id", as_dict=True)
        )
        return [
            (each, self._passage(each, row, spans[row["sequence_id"],].sort("token_start").to_dicts(), trained))
            for each in scored
            for row in (rows[each.sequence_index],)
        ]

    def _passage(
        self, scored: Scored, row: Mapping[str, Any], spans: list[dict[str, Any]], trained: frozenset[str] | None
    ) -> Passage:
        split = None if scored.by_token is None else self._split(scored.sequence_index, spans, scored.by_token)
        documents = []
        for document in {span["document_id"]: span for span in spans}.values():
            own = [span for span in spans if span["document_id"] == document["document_id"]]
            known = {name: document[name] for name in DOCUMENT_COLUMNS}
            seen = None if trained is None else document["document_id"] in trained
            documents.append(known | {"trained_on": seen, "influence_nats": _part(scored, own)})
        documents.sort(key=lambda document: -(document["influence_nats"] or 0.0))
        seen = None if trained is None else all(document["trained_on"] for document in documents)
        return Passage(
            scored.influence_nats, scored.calibrated_nats, scored.shard_id, scored.sequence_index,
            int(row["sequence_id"]), str(row["text"]), *_rest_of_words(spans), documents, seen, split,
        )  # fmt: skip

    def _split(self, index: int, spans: list[dict[str, Any]], by_token: NDArray[np.float64]) -> TokenSplit:
        """Return the split with places in the passage's text, in which documents are apart by an empty line."""
        length = int(self.tokens.array("lengths")[index])
        starts, ends = (
            np.asarray(self.tokens.array(name)[index, :length], np.int64)
            for name in ("character_start", "character_end")
        )
        offset = 0
        for span in spans:
            run = slice(span["token_start"], span["token_end"])
            first, last = span["character_start"], span["character_end"]
            for places in (starts, ends):
                places[run] = np.clip(places[run], first, last) - first + offset
            offset += last - first + (len(DOCUMENT_SEPARATOR) if last > first else 0)
        return TokenSplit(starts, ends, by_token[:length])


def _rest_of_words(spans: list[dict[str, Any]]) -> tuple[str, str]:
    """Return what is missing of a passage's first and of its last word, from the texts of their documents."""
    first, last = spans[0], spans[-1]
    start, end = first["character_start"], last["character_end"]
    head, tail = first["whole"][max(0, start - _LONGEST_WORD) : start], last["whole"][end : end + _LONGEST_WORD]
    before = re.search(r"\w*$", head) if re.match(r"\w", first["whole"][start : start + 1]) else None
    after = re.match(r"\w*", tail) if re.match(r"\w", last["whole"][end - 1 : end]) else None
    return before[0] if before is not None else "", after[0] if after is not None else ""


def _part(scored: Scored, spans: list[dict[str, Any]]) -> float | None:
    """Return the part of a score that enters through one document's runs of tokens."""
    if scored.by_document is not None:
        return scored.by_document.get(spans[0]["document_id"])
    if scored.by_token is None:
        return None
    return float(sum(scored.by_token[span["token_start"] : span["token_end"]].sum() for span in spans))


def stored(versions: Versions, name: str, shard: str | None = None) -> Artifact:
    """Return an artifact that is up to date.

    Raises:
        StorageError: it is missing or out of date.
    """
    key = versions.key(versions.workspace.graph[name], Partition(shard=shard))
    if key is None or not versions.workspace.store.holds(key):
        label = name if shard is None else f"{name}[{shard}]"
        raise StorageError(f"{label} is missing or out of date. Bring everything up to date with `influence run`.")
    return versions.workspace.store.open(key)
