"""Documents that must not be used: who says so, in which shards they are, and what remains of them once they went.

A document is withdrawn by its id, the hash of its text, so that it stays out wherever and whenever that text comes.
Ids are listed in a file of the study's (`corpus.withdrawn`) and in the store's own, which `influence forget` writes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from influence_assets.corpus.documents import document_ids
from influence_assets.corpus.slices import Shard
from influence_assets.corpus.withdrawn import Withdrawal, read_withdrawn
from influence_assets.engine.definition import AssetDefinition
from influence_assets.errors import InputError, StorageError
from influence_assets.storage.artifacts import ArtifactStore
from influence_assets.storage.small_files import read_cache, replace_cache, replace_file
from influence_assets.study import Corpus

TOMBSTONE_SCHEMA = pl.Schema(
    {
        "shard_id": pl.String(),
        "document_id": pl.String(),
        "reason": pl.String(),
        "removed_at": pl.Datetime("us", "UTC"),
    }
)
VANISHED = "its source file vanished"


def own_list(root: Path) -> Path:
    """The store's own list of withdrawn documents."""
    return root / "withdrawn.jsonl"


class Withdrawn:
    """The withdrawn documents of a corpus.

    Looking for them means reading every shard's ids once for each new list; what was found is kept by content.

    Args:
        store: of the study.
        corpus: of the study.
        listed: all shards there are.
        text_source: the asset that holds the documents' text.
    """

    def __init__(
        self, store: ArtifactStore, corpus: Corpus, listed: Mapping[str, Shard], text_source: AssetDefinition | None
    ) -> None:
        self._store = store
        self._text_source = text_source
        self._corpus = corpus
        self._listed = listed
        self._index_path = store.root / ".cache" / "withdrawn.json"

    @cached_property
    def entries(self) -> dict[str, Withdrawal]:
        """Every withdrawal by its document's id; of several the first."""
        lists = [own_list(self._store.root), *([Path(self._corpus.withdrawn)] if self._corpus.withdrawn else [])]
        found: dict[str, Withdrawal] = {}
        for withdrawal in (entry for path in lists for entry in read_withdrawn(path)):
            found.setdefault(withdrawal.document_id, withdrawal)
        return found

    def of(self, shard: Shard) -> frozenset[str]:
        """The withdrawn documents that are in a shard's file."""
        return frozenset(self._found[shard.shard_id]["withdrawn"]) if self.entries else frozenset()

    def is_all_of(self, shard: Shard) -> bool:
        """Whether every document of a shard's file is withdrawn, so that nothing is left to be a shard."""
        return bool(self.entries) and bool(self._found[shard.shard_id]["all"])

    @cached_property
    def _found(self) -> dict[str, dict[str, Any]]:
        """What is withdrawn of each shard."""
        said = json.dumps([self._corpus.text_column, sorted(self.entries)])
        listed = hashlib.sha256(said.encode()).hexdigest()
        remembered = _read_index(self._index_path, listed)
        found = {}
        for name, shard in self._listed.items():
            known = remembered.get(shard.content_hash)
            found[name] = self._look(shard) if known is None else known
        index = {self._listed[name].content_hash: entry for name, entry in found.items() if entry["is_read"]}
        if index != remembered:
            replace_cache(self._index_path, {"listed": listed, "found": index})
        return found

    def _look(self, shard: Shard) -> dict[str, Any]:
        ids = self._ids(shard)
        if ids is None:
            return {"withdrawn": [], "all": False, "is_read": False}
        hits = ids & self.entries.keys()
        return {"withdrawn": sorted(hits), "all": bool(hits) and hits == ids, "is_read": True}

    def _ids(self, shard: Shard) -> set[str] | None:
        """The ids of all texts of a shard: from the documents that were read of this content, else from the file."""
        source = self._text_source
        stored = () if source is None else self._store.manifests(source.name, shard.shard_id)
        for manifest in stored:
            if manifest.summary.get("content_hash") == shard.content_hash and source is not None:
                assert source.document_ids is not None  # noqa: S101  # that is what makes it the source of text
                try:
                    kept = set(source.document_ids(self._store.open(manifest.key)))
                except StorageError:
                    continue
                return kept | set(manifest.summary["withdrawn"])
        try:
            return set(document_ids(shard, self._corpus))
        except InputError:
            return None  # reading the shard's documents will say why


def _read_index(path: Path, listed: str) -> dict[str, dict[str, Any]]:
    index = read_cache(path)
    return dict(index["found"]) if index is not None and index["listed"] == listed else {}


class Tombstones:
    """What is left of documents that went: shard, id, reason and date; none of the text.

    Args:
        root: of the store.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / "tombstones.jsonl"

    def stored(self) -> pl.DataFrame:
        """All tombstones so far, as a frame of `TOMBSTONE_SCHEMA`.

        Raises:
            StorageError: the file is damaged.
        """
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
            frame = pl.DataFrame(rows, schema=dict(TOMBSTONE_SCHEMA) | {"removed_at": pl.String})
        except FileNotFoundError:
            return pl.DataFrame(schema=TOMBSTONE_SCHEMA)
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            remedy = "Mend the line, or delete the file to have it begin anew."
            raise StorageError(f"{self._path}: is damaged ({error}). {remedy}") from error
        return frame.with_columns(pl.col("removed_at").str.to_datetime("%+", time_unit="us", time_zone="UTC"))

    def wanted(
        self,
        withdrawn: Mapping[str, Sequence[Withdrawal]],
        vanished: Mapping[str, Sequence[str]],
        shards: Set[str],
        entries: Set[str],
    ) -> pl.DataFrame:
        """What the tombstones should be now. A date, once given, stays.

        Args:
            withdrawn: the withdrawals found in each shard.
            vanished: document ids of each shard that was published and has no file any more.
            shards: those that have a file; their tombstones of the time when they had none go.
            entries: ids of all withdrawn documents; tombstones of what is withdrawn no more go.
        """
        is_vanished = pl.col("reason") == VANISHED
        is_present = pl.col("shard_id").is_in(sorted(shards))
        standing = self.stored().filter(~is_present | (~is_vanished & pl.col("document_id").is_in(sorted(entries))))
        now = datetime.now(UTC)
        rows = [
            (shard, entry.document_id, entry.reason, datetime.fromisoformat(entry.withdrawn_at or now.isoformat()))
            for shard, found in withdrawn.items()
            for entry in found
        ] + [(shard, document, VANISHED, now) for shard, documents in vanished.items() for document in documents]
        added = pl.DataFrame(rows, schema=TOMBSTONE_SCHEMA, orient="row")
        place = ["shard_id", "document_id"]
        return pl.concat([standing, added]).unique(place, keep="first", maintain_order=True).sort(place)

    def store(self, tombstones: pl.DataFrame) -> None:
        """Keep these tombstones in the place of those that there were, in one step."""
        rows = tombstones.with_columns(pl.col("removed_at").dt.to_string("iso:strict")).iter_rows(named=True)
        replace_file(self._path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
