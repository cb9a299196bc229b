"""Withdraws documents: lists them as withdrawn and removes them from the published tables."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import polars as pl

from influence_assets.corpus.withdrawn import Withdrawal
from influence_assets.engine.catalogue import published_content
from influence_assets.engine.store_list import StoreList
from influence_assets.engine.tombstones import Tombstones
from influence_assets.engine.workspace import Workspace
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.storage.catalogue import load_catalogue, loaded_keys, query
from influence_assets.storage.catalogue.content import TOMBSTONES
from influence_assets.upkeep.garbage import derived_from, holds_text

PUBLISHED = "select distinct shard_id, document_id from documents where document_id in (select unnest($ids))"


def withdraw(workspace: Workspace, document_ids: Sequence[str], reason: str) -> list[Withdrawal]:
    """List documents as withdrawn in the store, and return those that were not listed yet.

    Raises:
        InputError: an id is not a document's id.
        StorageError: the list cannot be read or written.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    entries = [Withdrawal(document_id, reason, now) for document_id in document_ids]
    return StoreList(workspace.store.backend).add(entries)


def reinstate(workspace: Workspace, document_ids: Collection[str]) -> list[str]:
    """Remove documents from the store's list, and return those that were on it; the next run uses their texts again.

    Raises:
        StorageError: the list cannot be read or written.
    """
    return StoreList(workspace.store.backend).remove(document_ids)


def retract(workspace: Workspace, document_ids: Collection[str]) -> list[str]:
    """Remove everything that was computed from withdrawn documents from the published tables at once.

    Their whole shards are removed, and return with the next complete run. The corpus is not read, so that a problem
    with it cannot keep a document published.

    Args:
        workspace: the study and its store.
        document_ids: the documents to remove; those that are not withdrawn are ignored.

    Returns:
        The shards that were removed; none if the published tables hold none of the documents.

    Raises:
        StorageError: the published tables cannot be read or written.
    """
    if not workspace.catalogue.exists():
        return []
    with workspace.store.shared_lock():
        entries = workspace.withdrawn.entries
        published = query(workspace.catalogue, PUBLISHED, {"ids": [d for d in document_ids if d in entries]})
        if published.is_empty():
            return []
        shards = set(published["shard_id"])
        tombstones = Tombstones(workspace.store.backend)
        rows = tombstones.wanted(_by_shard(published, workspace), {}, set(), workspace.withdrawn.listed_by)
        tombstones.store(rows)
        content = published_content(workspace, _derived_from(workspace, shards), rows.select(TOMBSTONES.names()))
        load_catalogue(workspace.catalogue, content, workspace.store)
    return sorted(shards)


def tombstones_of(workspace: Workspace, document_ids: Sequence[str]) -> pl.DataFrame:
    """Return the stored tombstones of some documents."""
    stored = Tombstones(workspace.store.backend).stored().select(TOMBSTONES.names())
    return stored.filter(pl.col("document_id").is_in(document_ids))


def _by_shard(published: pl.DataFrame, workspace: Workspace) -> dict[str, list[Withdrawal]]:
    entries: dict[str, list[Withdrawal]] = {}
    for shard, document_id in published.rows():
        entries.setdefault(shard, []).append(workspace.withdrawn.entries[document_id])
    return entries


def _derived_from(workspace: Workspace, shards: Collection[str]) -> set[ArtifactKey]:
    """Return the published artifacts with text or results of single sequences of these shards.

    They include artifacts whose manifests are lost, because their inputs are unknown.
    """
    store, source = workspace.store, workspace.graph.text_source
    manifests = {manifest.key: manifest for manifest in store.manifests(with_records=True, with_damaged=True)}
    loaded = loaded_keys(workspace.catalogue)
    texts = [key for key in loaded if source is not None and key.asset == source.name and key.partition in shards]
    unknown = [key for key in loaded if key not in manifests and holds_text(workspace.graph, key)]
    return derived_from(workspace.graph, [*texts, *unknown], manifests)
