"""Documents that must not be used: the list that withdraws each of them, and the shards that they are in.

A document is withdrawn by its id, the hash of its text, so that this text is left out wherever and whenever it appears.
Ids are listed in a file of the study (`corpus.withdrawn`) and in the store's own list, which `influence forget` writes.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
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

    To find them, every shard's ids are read once for each new list; the findings are cached by the shard's content.

    Args:
        store: the study's store.
        corpus: the study's `corpus` section.
        shards: returns all shards of the corpus; called when they are first needed.
        skipped: returns a hash of the rows that are left out, for each shard that has some.
        text_source: the asset that holds the documents' text.
        store_list: the store's own list.
    """

    def __init__(
        self,
        store: ArtifactStore,
        corpus: Corpus,
        shards: Callable[[], Mapping[str, Shard]],
        skipped: Callable[[], Mapping[str, str]],
        text_source: AssetDefinition | None,
        store_list: StoreList,
    ) -> None:
        self._list = store_list
        self._store = store
        self._text_source = text_source
        self._corpus = corpus
        self._shards = shards
        self._skipped = skipped
        self._index_path = store.root / ".cache" / "withdrawn.json"

    @cached_property
    def entries(self) -> dict[str, Withdrawal]:
        """All withdrawals by document id; the store's list takes precedence over the study's.

        Raises:
            InputError: the study's list cannot be read.
            StorageError: the store's list is doubtful (see `StoreList.refuse_doubt`), or cannot be read.
        """
        return {**self._study_list, **self._store_list}

    @cached_property
    def listed_by(self) -> dict[str, str]:
        """The list that withdraws each document, by id: `store` or `study`."""
        return dict.fromkeys(self._study_list, "study") | dict.fromkeys(self._store_list, "store")

    @cached_property
    def _store_list(self) -> dict[str, Withdrawal]:
        self._list.refuse_doubt()
        return self._list.entries(self._study_list.keys())

    @cached_property
    def _study_list(self) -> dict[str, Withdrawal]:
        path = self._corpus.withdrawn
        return {} if path is None else {entry.document_id: entry for entry in read_withdrawn(Path(path))}

    def repair(self) -> dict[Path, str]:
        """Rewrite the store's list and the tombstones if a copy is damaged, and return what was wrong with each.

        Raises:
            InputError: the study's list cannot be read.
            StorageError: the store's files cannot be read or written, or its list is doubtful.
        """
        return self._list.repair(self._study_list.keys()) | Tombstones(self._store.backend).repair()

    def of(self, shard: Shard) -> frozenset[str]:
        """Return the withdrawn documents that are in a shard's file."""
        return frozenset(self._findings[shard.shard_id]["withdrawn"]) if self.entries else frozenset()

    def is_all_of(self, shard: Shard) -> bool:
        """Return whether every document of a shard's file is withdrawn, so that the shard is empty."""
        return bool(self.entries) and bool(self._findings[shard.shard_id]["all"])

    @cached_property
    def _findings(self) -> dict[str, dict[str, Any]]:
        """The ids `withdrawn` in each shard, whether these are `all` of its ids, and whether it `is_read`."""
        described = json.dumps([self._corpus.text_column, sorted(self.entries)])
        listed = hashlib.sha256(described.encode()).hexdigest()
        cached = _read_index(self._index_path, listed)
        shards, entries = self._shards(), {}
        # Of the same content, other rows may be used under other settings.
        skipped = self._skipped()
        contents = {name: f"{shard.content_hash} {skipped.get(name, '')}".strip() for name, shard in shards.items()}
        for name, shard in shards.items():
            entry = cached.get(contents[name])
            entries[name] = self._look(shard) if entry is None else entry
        index = {contents[name]: entry for name, entry in entries.items() if entry["is_read"]}
        if index != cached:
            with suppress(OSError):  # without the cache, the shards are read again next time
                replace_cache(self._index_path, {"listed": listed, "found": index})
        return entries

    def _look(self, shard: Shard) -> dict[str, Any]:
        ids = self._ids(shard)
        if ids is None:
            return {"withdrawn": [], "all": False, "is_read": False}
        hits = ids & self.entries.keys()
        return {"withdrawn": sorted(hits), "all": bool(hits) and hits == ids, "is_read": True}

    def _ids(self, shard: Shard) -> set[str] | None:
        """Return the ids of all texts of a shard, from stored documents of the same content or else from its file."""
        source = self._text_source
        stored = () if source is None else self._store.manifests(source.name, shard.shard_id)
        skipped = self._skipped().get(shard.shard_id)
        for manifest in stored:
            is_same = manifest.summary.get("content_hash") == shard.content_hash
            if is_same and manifest.summary.get("skipped") == skipped and source is not None:
                assert source.document_ids is not None  # noqa: S101  # having it makes the asset the source of text
                try:
                    used = set(source.document_ids(self._store.open(manifest.key)))
                except StorageError:
                    continue
                return used | set(manifest.summary["withdrawn"])
        try:
            return set(document_ids(shard, self._corpus))
        except InputError:
            return None  # computing the shard's `documents` reports the reason


def _read_index(path: Path, listed: str) -> dict[str, dict[str, Any]]:
    index = read_cache(path)
    return dict(index["found"]) if index is not None and index["listed"] == listed else {}
