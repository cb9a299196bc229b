"""What still holds something of a withdrawn document: models that were trained on it, generations fitted on it.

They are frozen. What is merged over documents and not frozen is computed again without the document by the next run.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import polars as pl

from influence_assets.engine.tombstones import Tombstones
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import StorageError
from influence_assets.storage.artifacts.manifest import ArtifactKey, Manifest
from influence_assets.storage.catalogue import query
from influence_assets.upkeep.garbage import Manifests, derived_from

_TRAINED_ON = "trained_documents"
_SHARDS = "select distinct shard_id from documents where document_id in (select unnest($ids))"


@dataclass(frozen=True)
class Holder:
    """A frozen artifact that is merged over many documents, with the withdrawn one among them.

    Args:
        key: the artifact.
        generation_id: the generation that it belongs to, if it belongs to one.
        was_trained: whether it is a model that was trained on the document.
    """

    key: ArtifactKey
    generation_id: int | None
    was_trained: bool


def holders(workspace: Workspace, document_ids: Collection[str]) -> list[Holder]:
    """Return what stays although documents are withdrawn, because it is merged over many documents.

    Call it before the documents' own artifacts are removed, which say what the documents were part of. Where they have
    been, a shard's earlier version counts as having had the document unless its manifest says otherwise.

    Args:
        workspace: the study and its store; the package's own assets are enough.
        document_ids: the documents.

    Raises:
        StorageError: the catalogue or the tombstones cannot be read.
    """
    manifests = {m.key: m for m in workspace.store.manifests(with_records=True, with_damaged=True)}
    sources = list(_sources(workspace, manifests, set(document_ids)))
    found = []
    for key in sorted(derived_from(sources, manifests, lambda _key: True), key=str):
        asset = workspace.graph.get(key.asset)
        is_merged = asset is not None and not (asset.holds_text or asset.is_catalogue or asset.frozen is None)
        if not is_merged or not workspace.store.has_content(key):
            continue
        trained_on = _trained_on(workspace, manifests[key])
        if trained_on is None or not trained_on.isdisjoint(document_ids):
            number = manifests[key].summary.get("generation_id")
            found.append(Holder(key, None if number is None else int(number), trained_on is not None))
    return found


def _sources(workspace: Workspace, manifests: Manifests, ids: set[str]) -> Iterator[ArtifactKey]:
    """Yield the artifacts with the text of one of these documents."""
    source = workspace.graph.text_source
    if source is None or source.document_ids is None:
        return
    tombstones = Tombstones(workspace.store.backend).stored()
    shards = set(tombstones.filter(pl.col("document_id").is_in(ids))["shard_id"])
    if workspace.catalogue.exists():
        shards |= set(query(workspace.catalogue, _SHARDS, {"ids": list(ids)})["shard_id"])
    for key, manifest in manifests.items():
        if key.asset != source.name or str(key.partition) not in shards:
            continue
        try:
            has_any = not ids.isdisjoint(source.document_ids(workspace.store.open(key)))
        except StorageError:  # only its record is left, or it is damaged
            has_any = not ids <= set(manifest.summary.get("withdrawn", ()))
        if has_any:
            yield key


def _trained_on(workspace: Workspace, manifest: Manifest) -> set[str] | None:
    """Return the documents that a model was trained on; None if it is no such model, or does not say."""
    if _TRAINED_ON not in manifest.rows:
        return None
    try:
        return set(workspace.store.open(manifest.key).table(_TRAINED_ON).select("document_id").collect()["document_id"])
    except StorageError:
        return None
