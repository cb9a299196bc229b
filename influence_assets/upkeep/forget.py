"""Withdraws documents: lists them as withdrawn and removes them from the published tables."""

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import replace
from datetime import UTC, datetime

import polars as pl

from influence_assets.corpus.withdrawn import Withdrawal
from influence_assets.engine.catalogue import published_content
from influence_assets.engine.tombstones import Tombstones
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError, StorageError
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.storage.catalogue import load_catalogue, loaded_keys, query, unload_artifacts
from influence_assets.storage.catalogue.content import TOMBSTONES
from influence_assets.upkeep.garbage import derived_from

PUBLISHED = "select distinct shard_id, document_id from documents where document_id in (select unnest($ids))"


def withdraw(workspace: Workspace, document_ids: Sequence[str], reason: str) -> list[Withdrawal]:
    """List documents as withdrawn in the store, and return those that were not listed yet.

    Raises:
        InputError: an id is not a document's id.
        StorageError: the list cannot be read or written.
    """
    return workspace.store_list.add(_withdrawals(document_ids, reason))


def restore(workspace: Workspace, document_ids: Sequence[str], reason: str) -> list[Withdrawal]:
    """Write a damaged list anew, and return it: what is still known of it, and these documents.

    Raises:
        InputError: an id is not a document's id.
        StorageError: the list cannot be read or written.
    """
    return workspace.store_list.restore(_withdrawals(document_ids, reason))


def reinstate(workspace: Workspace, document_ids: Collection[str]) -> list[str]:
    """Remove documents from the store's list, and return those that were on it; the next run uses their texts again.

    Raises:
        StorageError: the list cannot be read or written.
    """
    return workspace.store_list.remove(document_ids)


def retract(workspace: Workspace, document_ids: Collection[str] | None = None) -> list[str]:
    """Remove everything that was computed from withdrawn documents from the published tables at once.

    Their whole shards are removed, and return with the next complete run. Neither the corpus nor the code of extensions
    is used, so that a problem with them cannot keep a document published.

    Args:
        workspace: the study and its store; the package's own assets are enough.
        document_ids: the documents to remove, or None for all withdrawn ones; those that are not withdrawn are ignored.

    Returns:
        The shards that were removed; none if the published tables hold none of the documents.

    Raises:
        StorageError: the published tables cannot be read or written.
    """
    if not workspace.catalogue.exists():
        return []
    with workspace.store.shared_lock():
        entries = _entries(workspace)
        ids = [document_id for document_id in entries if document_ids is None or document_id in document_ids]
        published = query(workspace.catalogue, PUBLISHED, {"ids": ids})
        if published.is_empty():
            return []
        shards = set(published["shard_id"])
        tombstones = Tombstones(workspace.store.backend)
        rows = tombstones.wanted(_by_shard(published, entries), {}, set(), _listed_by(workspace, entries))
        tombstones.store(rows)
        holding_text = _holding_text(workspace)
        derived = _derived_from(workspace, shards, holding_text)
        try:
            unload_artifacts(workspace.catalogue, derived, rows)
        except StorageError:  # the file must be built from scratch, with the package's own tables alone
            content = published_content(workspace, derived, rows.select(TOMBSTONES.names()))
            load_catalogue(workspace.catalogue, replace(content, holding_text=holding_text), workspace.store)
    return sorted(shards)


def tombstones_of(workspace: Workspace, document_ids: Sequence[str]) -> pl.DataFrame:
    """Return the stored tombstones of some documents."""
    stored = Tombstones(workspace.store.backend).stored().select(TOMBSTONES.names())
    return stored.filter(pl.col("document_id").is_in(document_ids))


def _withdrawals(document_ids: Sequence[str], reason: str) -> list[Withdrawal]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return [Withdrawal(document_id, reason, now) for document_id in document_ids]


def _entries(workspace: Workspace) -> Mapping[str, Withdrawal]:
    """Return all withdrawals; without the study's list if it cannot be read, or if the store's is doubtful."""
    try:
        return workspace.withdrawn.entries
    except (InputError, StorageError):
        return workspace.store_list.entries()


def _listed_by(workspace: Workspace, entries: Mapping[str, Withdrawal]) -> Mapping[str, str]:
    try:
        return workspace.withdrawn.listed_by
    except (InputError, StorageError):
        return dict.fromkeys(entries, "store")


def _by_shard(published: pl.DataFrame, entries: Mapping[str, Withdrawal]) -> dict[str, list[Withdrawal]]:
    by_shard: dict[str, list[Withdrawal]] = {}
    for shard, document_id in published.rows():
        by_shard.setdefault(shard, []).append(entries[document_id])
    return by_shard


def _holding_text(workspace: Workspace) -> frozenset[str]:
    """Return the assets that hold text, tokens or scores of single sequences.

    The catalogue says it of assets that the graph lacks, such as those of an extension that cannot be loaded.
    """
    graph = workspace.graph
    held = query(workspace.catalogue, "select distinct asset, holds_text from materializations").rows()
    return graph.holding_text | {asset for asset, holds_text in held if asset not in graph and holds_text}


def _derived_from(workspace: Workspace, shards: Collection[str], holding_text: Set[str]) -> set[ArtifactKey]:
    """Return the published artifacts with text or results of single sequences of these shards.

    They include artifacts whose manifests are lost, because their inputs are unknown.
    """
    store, source = workspace.store, workspace.graph.text_source
    manifests = {manifest.key: manifest for manifest in store.manifests(with_records=True, with_damaged=True)}
    loaded = loaded_keys(workspace.catalogue)
    texts = [key for key in loaded if source is not None and key.asset == source.name and key.partition in shards]
    unknown = [key for key in loaded if key not in manifests and key.asset in holding_text]
    return derived_from([*texts, *unknown], manifests, lambda key: key.asset in holding_text)
