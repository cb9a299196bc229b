"""Removes from the store what is no longer needed, and what must go because its documents were withdrawn."""

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

from influence_assets.engine.catalogue import published_content
from influence_assets.engine.checkpoints import is_checkpoint, part_of
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.generations import is_generation_requested, remember_last_generation
from influence_assets.engine.graph import AssetGraph
from influence_assets.engine.partitions import Partition
from influence_assets.engine.plan import plan
from influence_assets.engine.versions import Versions
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import StorageError
from influence_assets.storage.artifacts import ArtifactStore
from influence_assets.storage.artifacts.manifest import ArtifactKey, Manifest
from influence_assets.storage.catalogue import has_holes, load_catalogue, loaded_keys, remove_abandoned_load
from influence_assets.storage.disk_errors import removing
from influence_assets.upkeep.trainings import abandoned_trainings, size_on_disk

LARGEST_VANISHED_SHARE = 0.1
"""The share of the store's documents that may be removed without asking because their source files are gone: an
unmounted disk looks the same."""

Manifests = Mapping[ArtifactKey, Manifest]


@dataclass
class Collected:
    """What a collection removed, or would remove.

    Args:
        removed: artifacts that are removed entirely.
        reduced: artifacts of which only the manifest is kept, because something published was computed from them.
        kept_back: artifacts of withdrawn documents or vanished files that are still published, and so are kept until
            the next run.
        bytes: the bytes that are freed.
        catalogue_rebuilt: whether the DuckDB file was rebuilt, so that it holds no deleted rows.
        not_rebuilt: why the DuckDB file, which may hold deleted rows, could not be rebuilt.
    """

    removed: list[ArtifactKey] = field(default_factory=list)
    reduced: list[ArtifactKey] = field(default_factory=list)
    kept_back: list[ArtifactKey] = field(default_factory=list)
    bytes: int = 0
    catalogue_rebuilt: bool = False
    not_rebuilt: str | None = None


@dataclass(frozen=True)
class Vanished:
    """The documents in the store whose source files are gone from the corpus.

    Args:
        shards: the shards that they are in.
        documents: the number of these documents.
        of_documents: the number of all documents in the store, not counting superseded versions.
    """

    shards: tuple[str, ...]
    documents: int
    of_documents: int

    @property
    def is_large(self) -> bool:
        """Whether they are so many that a person must confirm their removal."""
        return self.documents > LARGEST_VANISHED_SHARE * self.of_documents


def vanished_documents(workspace: Workspace) -> Vanished:
    """Return the documents that a collection would remove because their source files are gone.

    Raises:
        InputError: the corpus cannot be listed.
    """
    source, latest = workspace.graph.text_source, dict[str, Manifest]()
    for manifest in () if source is None else workspace.store.manifests(source.name, with_damaged=True):
        shard = str(manifest.key.partition)
        if shard not in latest or latest[shard].started_at < manifest.started_at:
            latest[shard] = manifest
    count = (lambda _manifest: 1) if source is None else source.document_count
    counts = {shard: count(manifest) for shard, manifest in latest.items()}
    gone = sorted(shard for shard in counts if workspace.has_vanished(shard))
    return Vanished(tuple(gone), sum(counts[shard] for shard in gone), sum(counts.values()))


def collect(workspace: Workspace, *, keep: int, dry_run: bool = False, spare_vanished: bool = False) -> Collected:
    """Remove superseded versions, and every trace of what was withdrawn.

    A collection keeps what the study needs, what is published, everything that either was computed from, and the last
    `keep` further versions of each partition. Artifacts with documents that are withdrawn or whose files vanished are
    removed in any case. So are damaged artifacts that the study does not need, because no run would repair them, and
    what trainings left that no run would go on with. If something published was computed from a removed artifact, its
    manifest is kept for the lineage.

    Args:
        workspace: the study and its store.
        keep: the number of superseded versions of each partition to keep.
        dry_run: whether only to report what would be removed.
        spare_vanished: whether to treat documents of vanished files like superseded versions, unless withdrawn.

    Raises:
        InputError: the corpus cannot be listed.
        StorageError: another process is using the store.
    """
    store, collected = workspace.store, Collected()
    with store.exclusive_lock():
        if not dry_run:
            store.remove_abandoned_drafts()
        manifests = {m.key: m for m in store.manifests(with_records=True, with_damaged=True)}
        required = _needed_by_study(workspace, manifests)
        published = set(loaded_keys(workspace.catalogue))
        needed = _with_ancestors(required | published, manifests)
        unclean = tainted(workspace, manifests, spare_vanished=spare_vanished) - required
        collected.kept_back = sorted(unclean & published, key=str)
        unclean -= published
        unclean |= _dispensable(workspace, manifests, required)
        unclean |= {key for key in manifests.keys() - required if store.is_damaged(key)}
        superseded = _superseded(manifests.keys() - needed - unclean, manifests, keep)
        collected.reduced = sorted((key for key in unclean & needed if store.has_content(key)), key=str)
        collected.removed = sorted((unclean - needed) | superseded, key=str)
        trainings = abandoned_trainings(workspace, required)
        of_trainings = sum(map(size_on_disk, trainings))
        if dry_run:
            of_artifacts = sum(manifests[key].bytes for key in [*collected.reduced, *collected.removed])
            collected.bytes = of_artifacts + of_trainings
            return collected
        with removing("what a killed training left", workspace.trainings):
            for folder in trainings:
                shutil.rmtree(folder)
        collected.bytes = _remove(workspace, collected) + of_trainings
        store.remove_empty_folders()
        remove_abandoned_load(workspace.catalogue)
        if has_holes(workspace.catalogue):
            try:
                load_catalogue(workspace.catalogue, published_content(workspace), store, anew=True)
                collected.catalogue_rebuilt = True
            except StorageError as error:  # such as a disk that is still too full for a second file
                collected.not_rebuilt = str(error)
    return collected


def _remove(workspace: Workspace, collected: Collected) -> int:
    """Remove what was found, and return the bytes freed; nothing is written before space is free, for a full disk."""
    store, generation = workspace.store, workspace.graph.generation
    numbered = [key for key in collected.removed if generation is not None and key.asset == generation.name]
    freed = sum(store.remove(key) for key in collected.removed if key not in numbered)
    freed += store.remove_unreadable()
    freed += sum(store.reduce_to_record(key) for key in collected.reduced)
    if numbered:
        remember_last_generation(workspace)
    return freed + sum(store.remove(key) for key in numbered)


def _needed_by_study(workspace: Workspace, manifests: Manifests) -> set[ArtifactKey]:
    """Return what the study needs, stored or not, in the published generation and in one that is being filled.

    Among it are the checkpoints that a run would go on from.
    """
    required = set()
    looks = [Versions(workspace, "published"), Versions(workspace, "newest")]
    looks += [member for versions in looks for member in versions.members]
    if is_generation_requested(workspace):
        looks.append(Versions(workspace, fit_another=True))
    for versions in looks:
        required |= _checkpoints(versions, manifests)
        states = [state for state in plan(versions) if not versions.is_spent(state.asset)]
        keys = (versions.key(state.asset, p.partition) for state in states for p in state.partitions)
        required |= {key for key in keys if key is not None}
    return required


def _checkpoints(versions: Versions, manifests: Manifests) -> set[ArtifactKey]:
    """Return the checkpoints from which a partition that is not up to date would be computed."""
    kept = set()
    for key, manifest in manifests.items():
        asset = versions.workspace.graph.get(key.asset)
        if asset is None or not is_checkpoint(manifest):
            continue
        partition = Partition.parse(asset.partitioned_by, key.partition)
        key_and_inputs = versions.key_and_inputs(asset, partition)
        if key_and_inputs is None or versions.stands(asset, partition):
            continue
        now = versions.key_from(asset, partition, manifest.inputs, checkpoint=part_of(manifest))
        if now == key and key_and_inputs[1][: len(manifest.inputs)] == manifest.inputs:
            kept.add(key)
    return kept


def _dispensable(workspace: Workspace, manifests: Manifests, required: Set[ArtifactKey]) -> set[ArtifactKey]:
    """Return those of the artifacts that the study does not need that are not worth keeping as superseded versions."""
    dispensable = set()
    for key in manifests.keys() - required:
        asset = workspace.graph.get(key.asset)
        if is_checkpoint(manifests[key]) or (asset is not None and asset.needed_until is not None):
            dispensable.add(key)
    return dispensable


def _with_ancestors(keys: Iterable[ArtifactKey], manifests: Manifests) -> set[ArtifactKey]:
    reached: set[ArtifactKey] = set()
    unseen = set(keys)
    while unseen:
        key = unseen.pop()
        if key not in reached:
            reached.add(key)
            unseen |= set(manifests[key].inputs) if key in manifests else set()
    return reached


def tainted(workspace: Workspace, manifests: Manifests, *, spare_vanished: bool = False) -> set[ArtifactKey]:
    """Return the artifacts with text, tokens or results of single sequences of documents that must not be used.

    What is merged over many documents (a generation, a trained model) is not included: it holds no document's text.

    Args:
        workspace: the study and its store.
        manifests: the manifests of all artifacts.
        spare_vanished: whether documents of vanished files may stay.
    """
    documents = _tainted_documents(workspace, manifests, spare_vanished=spare_vanished)
    return derived_from(documents, manifests, lambda key: holds_text(workspace.graph, key))


def derived_from(
    keys: Iterable[ArtifactKey], manifests: Manifests, holds_text: Callable[[ArtifactKey], bool]
) -> set[ArtifactKey]:
    """Return these artifacts, and those with results of single sequences that were computed from them."""
    used: dict[ArtifactKey, list[ArtifactKey]] = defaultdict(list)
    for key, manifest in manifests.items():
        for read in manifest.inputs:
            used[read].append(key)
    derived: set[ArtifactKey] = set()
    unseen = list(keys)
    while unseen:
        key = unseen.pop()
        if key not in derived:
            derived.add(key)
            unseen += [user for user in used[key] if holds_text(user)]
    return derived


def holds_text(graph: AssetGraph, key: ArtifactKey) -> bool:
    """Return whether an artifact holds text or results of single sequences.

    It is assumed to if its asset is unknown, such as one of an extension that is not loaded.
    """
    asset = graph.get(key.asset)
    return asset is None or asset.holds_text


def _tainted_documents(workspace: Workspace, manifests: Manifests, *, spare_vanished: bool) -> Iterator[ArtifactKey]:
    withdrawn, source = workspace.withdrawn.entries.keys(), workspace.graph.text_source
    for key in manifests:
        if source is None or key.asset != source.name:
            continue
        shard = str(key.partition)
        has_vanished = workspace.has_vanished(shard) and not spare_vanished
        is_gone = shard not in workspace.shards and (shard in workspace.listed or has_vanished)
        if is_gone or (withdrawn and _holds_any(workspace.store, source, key, withdrawn)):
            yield key


def _holds_any(store: ArtifactStore, source: AssetDefinition, key: ArtifactKey, ids: Set[str]) -> bool:
    assert source.document_ids is not None  # noqa: S101  # having it makes the asset the source of text
    try:
        documents = source.document_ids(store.open(key))
    except StorageError:
        return not store.holds(key)  # if it is damaged or only a record is left, assume that it does
    return any(document in ids for document in documents)


def _superseded(keys: Iterable[ArtifactKey], manifests: Manifests, keep: int) -> set[ArtifactKey]:
    """Return all but the last `keep` versions of each partition."""
    places: dict[tuple[str, str | None], list[ArtifactKey]] = defaultdict(list)
    for key in keys:
        places[key.asset, key.partition].append(key)
    return {
        key
        for versions in places.values()
        for key in sorted(versions, key=lambda key: manifests[key].started_at, reverse=True)[keep:]
    }
