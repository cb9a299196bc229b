"""Taking documents out: listed as withdrawn, gone from what readers see, and then from the disk."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import polars as pl

from influence_assets.corpus.withdrawn import Withdrawal
from influence_assets.engine.catalogue import published_content
from influence_assets.engine.store_list import StoreList
from influence_assets.engine.tombstones import Tombstones
from influence_assets.engine.workspace import Workspace
from influence_assets.storage.catalogue import load_catalogue, query
from influence_assets.upkeep.garbage import tainted

PUBLISHED = "select distinct document_id from documents where document_id in (select unnest($ids))"


def withdraw(workspace: Workspace, document_ids: Sequence[str], reason: str) -> list[Withdrawal]:
    """List documents as withdrawn in the store, and return those that were not listed yet.

    Raises:
        InputError: an id is not one.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    entries = [Withdrawal(document_id, reason, now) for document_id in document_ids]
    return StoreList(workspace.store.root).add(entries)


def reinstate(workspace: Workspace, document_ids: Collection[str]) -> list[str]:
    """Take documents off the store's list, and return those that were on it; the next run uses their texts again.

    Raises:
        StorageError: the list cannot be read or written.
    """
    return StoreList(workspace.store.root).remove(document_ids)


def still_published(workspace: Workspace) -> list[str]:
    """Withdrawn documents that readers can still see."""
    if workspace.catalogue_version() is None:
        return []
    found = query(workspace.catalogue, PUBLISHED, {"ids": list(workspace.withdrawn.entries)})
    return sorted(found["document_id"])


def retract(workspace: Workspace) -> None:
    """Take everything that withdrawn documents had a part in out of the published tables at once.

    For when it cannot be computed anew without them for now: their whole shards go, and come back with the next
    complete run.

    Raises:
        StorageError: the file cannot be written.
    """
    store = workspace.store
    Tombstones(store.root).store(workspace.tombstones)
    manifests = {manifest.key: manifest for manifest in store.manifests(with_records=True, with_damaged=True)}
    load_catalogue(workspace.catalogue, published_content(workspace, tainted(workspace, manifests)), store)


def tombstones_of(workspace: Workspace, document_ids: Sequence[str]) -> pl.DataFrame:
    """What is left of some documents."""
    return Tombstones(workspace.store.root).stored().filter(pl.col("document_id").is_in(document_ids))
