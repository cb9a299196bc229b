"""Documents that must not be used: who says so, and in which shards they are.

A document is withdrawn by its id, the hash of its text, so that it stays out wherever and whenever that text comes.
Ids are listed in a file of the study's (`corpus.withdrawn`) and in the store's own, which `influence forget` writes.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from influence_assets.corpus.documents import document_ids
from influence_assets.corpus.slices import Shard
from influence_assets.corpus.withdrawn import Withdrawal, read_withdrawn
from influence_assets.durable.caches import read_cache, replace_cache
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.store_list import StoreList
from influence_assets.engine.tombstones import Tombstones
from influence_assets.errors import InputError, StorageError
from influence_assets.storage.artifacts import ArtifactStore
from influence_assets.study import Corpus


class Withdrawn:
    """The withdrawn documents of a corpus.

    Looking for them means reading every shard's ids once for each new list; what was found is kept by content.

    Args:
        store: of the study.
        corpus: of the study.
        shards: gives all shards that there are, when they are first needed.
        text_source: the asset that holds the documents' text.
    """

    def __init__(
        self,
        store: ArtifactStore,
        corpus: Corpus,
        shards: Callable[[], Mapping[str, Shard]],
        text_source: AssetDefinition | None,
    ) -> None:
        self._store = store
        self._text_source = text_source
        self._corpus = corpus
        self._shards = shards
        self._index_path = store.root / ".cache" / "withdrawn.json"

    @cached_property
    def entries(self) -> dict[str, Withdrawal]:
        """Every withdrawal by its document's id: the store's, then what the study's list adds."""
        return {**self._study_list, **self._store_list}

    @cached_property
    def listed_by(self) -> dict[str, str]:
        """Which list withdraws each document: `store` or `study`."""
        return dict.fromkeys(self._study_list, "study") | dict.fromkeys(self._store_list, "store")

    @cached_property
    def _store_list(self) -> dict[str, Withdrawal]:
        return StoreList(self._store.backend).entries(self._study_list.keys())

    @cached_property
    def _study_list(self) -> dict[str, Withdrawal]:
        path = self._corpus.withdrawn
        return {} if path is None else {entry.document_id: entry for entry in read_withdrawn(Path(path))}

    def mend(self) -> dict[Path, str]:
        """Write the store's list and the tombstones anew where a copy is damaged; returns what was wrong with which.

        Raises:
            InputError: the study's list cannot be read.
            StorageError: the store's files cannot be read or written.
        """
        backend = self._store.backend
        return StoreList(backend).mend(self._study_list.keys()) | Tombstones(backend).mend()

    def of(self, shard: Shard) -> frozenset[str]:
        """The withdrawn documents that are in a shard's file."""
        return frozenset(self._found[shard.shard_id]["withdrawn"]) if self.entries else frozenset()

    def is_all_of(self, shard: Shard) -> bool:
        """Whether every document of a shard's file is withdrawn, so that nothing is left to be a shard."""
        return bool(self.entries) and bool(self._found[shard.shard_id]["all"])

    @cached_property
    def _found(self) -> dict[str, dict[str, Any]]:
        """What is withdrawn of each shard."""
        described = json.dumps([self._corpus.text_column, sorted(self.entries)])
        listed = hashlib.sha256(described.encode()).hexdigest()
        remembered = _read_index(self._index_path, listed)
        shards, entries = self._shards(), {}
        for name, shard in shards.items():
            known = remembered.get(shard.content_hash)
            entries[name] = self._look(shard) if known is None else known
        index = {shards[name].content_hash: entry for name, entry in entries.items() if entry["is_read"]}
        if index != remembered:
            replace_cache(self._index_path, {"listed": listed, "found": index})
        return entries

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
