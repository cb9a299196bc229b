"""Tombstones: what remains of documents that were removed."""

import json
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from influence_assets.corpus.withdrawn import Withdrawal
from influence_assets.storage.backend import Backend
from influence_assets.storage.twin_files import TwinFile

VANISHED = "its source file vanished"
TOMBSTONE_SCHEMA = pl.Schema(
    {
        "shard_id": pl.String(),
        "document_id": pl.String(),
        "reason": pl.String(),
        "removed_at": pl.Datetime("us", "UTC"),
        "listed_by": pl.String(),
    }
)
"""`listed_by` names the list that withdrew the document, `store` or `study`; null if its file vanished, or if the
tombstone is older than this column."""

_PLACE = ("shard_id", "document_id")
_OF_TEXT = ("shard_id", "document_id", "reason", "removed_at")


class Tombstones:
    """The shard, id, reason and date of every document that was removed; none of its text.

    Args:
        backend: the store's backend.
    """

    def __init__(self, backend: Backend) -> None:
        self.file = TwinFile(backend, "tombstones.jsonl")

    def stored(self) -> pl.DataFrame:
        """Return all stored tombstones, in `TOMBSTONE_SCHEMA`; from a damaged file, those that can be read.

        Raises:
            StorageError: the file cannot be read.
        """
        frame = pl.DataFrame(self._rows(), schema=TOMBSTONE_SCHEMA, orient="row")
        return frame.unique(_PLACE, keep="first", maintain_order=True)

    def withdrawn(self) -> dict[str, Withdrawal]:
        """Return the documents whose tombstones say that they were withdrawn, except by the study's own list.

        Raises:
            StorageError: the file cannot be read.
        """
        # Without polars: its threads do not survive a fork, and withdrawing does not need it.
        return {
            document: Withdrawal(document, reason, removed_at.isoformat())
            for _shard, document, reason, removed_at, listed_by in self._rows()
            if reason != VANISHED and listed_by in (None, "store")
        }

    def _rows(self) -> list[tuple[Any, ...]]:
        return [row for line in self.file.read().lines if (row := _row(line)) is not None]

    def wanted(
        self,
        withdrawn: Mapping[str, Sequence[Withdrawal]],
        vanished: Mapping[str, Sequence[str]],
        shards: Set[str],
        listed: Mapping[str, str],
    ) -> pl.DataFrame:
        """Return the tombstones that there should be now. A date that is already stored is not changed.

        Args:
            withdrawn: the withdrawals that concern each shard.
            vanished: the document ids of each shard that was published and no longer has a file.
            shards: the shards that have a file; tombstones from a time when they had none are dropped.
            listed: the list that withdrew each document, by id; tombstones of documents that are no longer withdrawn
                are dropped.
        """
        is_vanished = pl.col("reason") == VANISHED
        is_present = pl.col("shard_id").is_in(sorted(shards))
        unchanged = self.stored().filter(~is_present | (~is_vanished & pl.col("document_id").is_in(sorted(listed))))
        now = datetime.now(UTC)
        rows = [
            (
                shard,
                entry.document_id,
                entry.reason,
                datetime.fromisoformat(entry.withdrawn_at or now.isoformat()),
                None,
            )
            for shard, entries in withdrawn.items()
            for entry in entries
        ] + [(shard, document, VANISHED, now, None) for shard, documents in vanished.items() for document in documents]
        added = pl.DataFrame(rows, schema=TOMBSTONE_SCHEMA, orient="row")
        tombstones = pl.concat([unchanged, added]).unique(_PLACE, keep="first", maintain_order=True).sort(_PLACE)
        listed_by = pl.col("document_id").replace_strict(dict(listed), default=None, return_dtype=pl.String)
        return tombstones.with_columns(listed_by=pl.when(~is_vanished).then(pl.coalesce(listed_by, "listed_by")))

    def store(self, tombstones: pl.DataFrame) -> None:
        """Store these tombstones instead of the current ones.

        Raises:
            StorageError: they cannot be written.
        """
        dated = tombstones.select(TOMBSTONE_SCHEMA.names()).with_columns(
            pl.col("removed_at").dt.to_string("iso:strict")
        )
        with self.file.changing():
            self.file.write([json.dumps(row, ensure_ascii=False) for row in dated.iter_rows(named=True)])

    def repair(self) -> dict[Path, str]:
        """Rewrite both copies if either is damaged, and return what was wrong with each.

        Raises:
            StorageError: they cannot be read or written.
        """
        troubles = self.file.read().troubles
        if troubles:
            self.store(self.stored())
        return troubles


def _row(line: str) -> tuple[Any, ...] | None:
    """Return a line as a row of `TOMBSTONE_SCHEMA`; None if it is damaged."""
    try:
        fields = json.loads(line)
        shard, document, reason, removed_at = (fields[name] for name in _OF_TEXT)
        listed_by = fields.get("listed_by")
        if not all(isinstance(field, str) for field in (shard, document, reason)):
            return None
        return shard, document, reason, datetime.fromisoformat(removed_at).astimezone(UTC), listed_by
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
