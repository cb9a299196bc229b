"""A study with its graph of assets and its store, and cached facts about its files."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from influence_assets.corpus.listing import is_folder_at
from influence_assets.corpus.measured_files import Digests, file_hash
from influence_assets.corpus.skipped_rows import skipped_rows
from influence_assets.corpus.slices import Shard, has_vanished, list_shards
from influence_assets.corpus.sources import SourceFile, list_query_files
from influence_assets.corpus.withdrawn import Withdrawal
from influence_assets.engine.graph import AssetGraph
from influence_assets.engine.partitions import Partition
from influence_assets.engine.store_list import StoreList
from influence_assets.engine.tombstones import VANISHED, Tombstones
from influence_assets.engine.withdrawals import Withdrawn
from influence_assets.errors import InputError, StorageError
from influence_assets.storage.artifacts import ArtifactStore
from influence_assets.storage.artifacts.manifest import ArtifactKey, Manifest
from influence_assets.storage.backend import open_backend
from influence_assets.storage.catalogue import query, standing_content_version
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.models.weights import ModelFolders

CATALOGUE = "influence.duckdb"

_QUERIES = {
    "unlisted_documents": "select shard_id, document_id from documents where shard_id not in (select unnest($shards))",
    "tombstones": "select document_id, reason, removed_at from tombstones",
    "generations": "select generation_id from generations",
}

_SEEN_ONCE = ("listed", "withdrawn", "skipped", "shards", "query_sets")
"""What a workspace has seen of the files that the members of an ensemble see too."""

_File = TypeVar("_File", Shard, SourceFile)


def catalogue_path(study: Study) -> Path:
    """Return the path of the study's DuckDB file; reading it needs no write permission."""
    return open_backend(study.storage.root).local_root / CATALOGUE


class Workspace:
    """What an asset needs to know beyond its inputs.

    A workspace looks at the source files and the model once and keeps what it saw, so that nothing changes in the
    middle of a run or a plan. Make a new one for each of them.

    Args:
        study: the study.
        load_graph: returns the assets; a function that other processes can import, so that they can compute too.
        requested: the partitions that are wanted of assets that are computed on request only, by the asset's name.
    """

    def __init__(
        self,
        study: Study,
        load_graph: Callable[[], AssetGraph],
        requested: Mapping[str, Collection[Partition]] | None = None,
    ) -> None:
        self.study = study
        self.load_graph = load_graph
        self.requested = requested or {}
        self.graph = load_graph() if study.first is None else load_graph().of_members
        self.store = ArtifactStore.open_or_create(study.storage.root, study.name)
        self._is_folder = cache(is_folder_at)
        self._query_hashes: dict[str, str] = {}
        self._catalogue_version_seen: tuple[tuple[int, ...], str | None] | None = None

    def again(self) -> "Workspace":
        """Return a fresh look at the study's files and its store."""
        if self.first is not None:
            return self.first.again().members[self.study.number - 1]
        return Workspace(self.study, self.load_graph, self.requested)

    @cached_property
    def first(self) -> "Workspace | None":
        """The workspace of the study that a member of its ensemble belongs to; None for that study itself."""
        return None if self.study.first is None else Workspace(self.study.first, self.load_graph)

    @cached_property
    def members(self) -> "tuple[Workspace, ...]":
        """The workspaces of the ensemble's further members, which see the same files."""
        members = tuple(Workspace(study, self.load_graph) for study in self.study.members)
        for member in members:
            vars(member).update({name: getattr(self, name) for name in _SEEN_ONCE}, first=self)
        return members

    @property
    def trainings(self) -> Path:
        """The folder of what trainings that are not finished have come to."""
        return self.store.root / ".training"

    def scratch(self, key: ArtifactKey) -> Path:
        """Return the folder of the training of one artifact; the computation that completes it removes the folder."""
        return self.trainings / key.data_version

    @property
    def weights_cache(self) -> Path:
        """The file that caches the hashes of weights."""
        return self.store.root / ".cache" / "weights.json"

    @property
    def kernels_cache(self) -> Path:
        """The file that caches which libraries are fastest on each machine."""
        return self.store.root / ".cache" / "kernels.json"

    @cached_property
    def _digests(self) -> Digests:
        return Digests(self.store.root / ".cache" / "sources.json")

    @property
    def catalogue(self) -> Path:
        """The DuckDB file."""
        return self.store.backend.local_root / CATALOGUE

    @cached_property
    def listed(self) -> dict[str, Shard]:
        """The corpus's files by shard, each with the hash of its content, in the order of their names."""
        shards = {shard.shard_id: shard for shard in list_shards(self.study.corpus, self._digests)}
        self._digests.save()
        return shards

    @cached_property
    def withdrawn(self) -> Withdrawn:
        """The withdrawn documents of the corpus."""
        text_source = self.graph.text_source
        corpus = self.study.corpus
        return Withdrawn(self.store, corpus, lambda: self.listed, lambda: self.skipped, text_source, self.store_list)

    @cached_property
    def skipped(self) -> dict[str, str]:
        """A hash of the rows that are left out because they cannot be used, for each shard that has some."""
        digests = Digests(self.store.root / ".cache" / "bad_rows.json")
        skipped = skipped_rows(self.listed.values(), self.study.corpus, digests)
        if self.study.corpus.on_bad_row == "skip":
            digests.save()
        return skipped

    @property
    def store_list(self) -> StoreList:
        """The store's own list of withdrawn documents."""
        return StoreList(self.store.backend, self._withdrawn_before)

    def _withdrawn_before(self) -> dict[str, Withdrawal]:
        """Return the documents that published tombstones or stored artifacts say were withdrawn, by whatever list."""
        withdrawn = {}
        with suppress(StorageError, InputError):
            for document_id, reason, removed_at in query(self.catalogue, _QUERIES["tombstones"]).rows():
                if reason != VANISHED:
                    withdrawn[document_id] = Withdrawal(document_id, reason, removed_at.isoformat())
        source = self.graph.text_source
        for manifest in () if source is None else self.store.manifests(source.name, with_records=True):
            for document_id in manifest.summary.get("withdrawn", ()):
                withdrawn.setdefault(document_id, Withdrawal(document_id, "withdrawn", ""))
        return withdrawn

    @cached_property
    def shards(self) -> dict[str, Shard]:
        """The shards with at least one document that is not withdrawn."""
        return {name: shard for name, shard in self.listed.items() if not self.withdrawn.is_all_of(shard)}

    @cached_property
    def tombstones(self) -> pl.DataFrame:
        """The tombstones that there should be, of withdrawn documents and of those whose files vanished."""
        withdrawn = {
            name: [self.withdrawn.entries[document] for document in sorted(self.withdrawn.of(shard))]
            for name, shard in self.listed.items()
        }
        tombstones = Tombstones(self.store.backend)
        return tombstones.wanted(withdrawn, self.vanished, self.listed.keys(), self.withdrawn.listed_by)

    @cached_property
    def vanished(self) -> dict[str, list[str]]:
        """The ids of the published documents whose files are known to be gone, by shard."""
        published = self._published("unlisted_documents", shards=list(self.listed))
        vanished: dict[str, list[str]] = {}
        for shard, document in self._unlisted_of_artifacts() if published is None else published:
            if self.has_vanished(shard):
                vanished.setdefault(shard, []).append(document)
        return vanished

    def has_vanished(self, shard_id: str) -> bool:
        """Return whether a shard is gone from the corpus; a shard whose file cannot be read is not gone.

        Raises:
            InputError: its file exists, but the source format that read it is not installed; or something that is not
                read is in the place of a folder on the way to it.
        """
        return has_vanished(shard_id, self.listed, self.study.corpus, self._is_folder)

    @cached_property
    def published_generations(self) -> frozenset[int]:
        """The generations whose scores are in the catalogue; if it was lost, those that any catalogue ever held."""
        published = self._published("generations")
        if published is None:
            end = self.graph.generation_end
            loaded = {key for manifest in self._loads for key in manifest.inputs}
            ends = [self.store.manifest(key) for key in loaded if end is not None and key.asset == end.name]
            return frozenset(int(manifest.summary["generation_id"]) for manifest in ends if manifest is not None)
        return frozenset(generation for (generation,) in published)

    def catalogue_version(self) -> str | None:
        """Return the version of the catalogue's content; None if there is no usable catalogue."""
        try:
            stat = self.catalogue.stat()
        except OSError:
            return None
        identity = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if self._catalogue_version_seen is None or self._catalogue_version_seen[0] != identity:
            self._catalogue_version_seen = identity, standing_content_version(self.catalogue)
        return self._catalogue_version_seen[1]

    def _published(self, name: str, **values: object) -> list[tuple[Any, ...]] | None:
        """Return the rows of a query on the current catalogue; None if there is no readable catalogue."""
        if self.catalogue_version() is None:
            return None
        try:
            return query(self.catalogue, _QUERIES[name], values).rows()
        except StorageError:
            return None

    def _unlisted_of_artifacts(self) -> Iterator[tuple[str, str]]:
        """Yield shard and id of the documents that the last catalogue was loaded from and whose shard has no file."""
        source = self.graph.text_source
        last = max(self._loads, key=lambda manifest: manifest.started_at, default=None)
        if source is None or source.document_ids is None or last is None:
            return
        for key in last.inputs:
            if key.asset == source.name and key.partition is not None and key.partition not in self.listed:
                with suppress(StorageError):
                    for document in source.document_ids(self.store.open(key)):
                        yield key.partition, document

    @property
    def _loads(self) -> list[Manifest]:
        """The manifests of all loads of the catalogue."""
        catalogue = self.graph.catalogue
        return [] if catalogue is None else list(self.store.manifests(catalogue.name))

    @cached_property
    def query_sets(self) -> dict[str, SourceFile]:
        """The query files by query set, in the order of their names."""
        return {file.name: file for file in list_query_files(self.study.queries.path)}

    def shard(self, name: str) -> Shard:
        """Return a shard: its file and its place in the file.

        Raises:
            InputError: the shard no longer exists.
        """
        return _file_of(self.shards, name, self.study.corpus.path)

    def query_file(self, query_set: str) -> SourceFile:
        """Return the file of a query set.

        Raises:
            InputError: the file no longer exists.
        """
        return _file_of(self.query_sets, query_set, self.study.queries.path)

    def query_hash(self, file: SourceFile) -> str:
        """Return the hash of a query file's content, computed once."""
        if file.url not in self._query_hashes:
            self._query_hashes[file.url] = file_hash(file, self._digests)
        return self._query_hashes[file.url]

    def refuse_changed(self, file: SourceFile) -> None:
        """Raise if the query file that was just read is not what was hashed before.

        Raises:
            InputError: the file has changed, so that its content would be stored under the old version.
        """
        if file_hash(file, self._digests) != self.query_hash(file):
            raise InputError(file.url, "changed while it was read", "Wait until it is complete, then run again.")

    @cached_property
    def model_folders(self) -> "ModelFolders":
        """The local folders of the model of `model.path`, and of its adapter."""
        from influence_assets.models.weights import resolve_model_folders

        caches = self.store.root / ".cache"
        if self.study.first is not None:
            caches /= f"member_{self.study.number}"
        return resolve_model_folders(self.study.model, caches)

    @property
    def model_folder(self) -> Path:
        """The local folder of the weights of `model.path`, without an adapter's."""
        return self.model_folders.model

    @cached_property
    def model_file_hashes(self) -> tuple[str, str]:
        """The hashes of the weights (with their configuration) and of the tokenizer's files of `model.path`."""
        from influence_assets.models.weights import model_hash, tokenizer_files_hash

        weights = model_hash(self.model_folders, self.study.model.adapter_attribution, self.weights_cache)
        return weights, tokenizer_files_hash(self.model_folders.tokenizer)

    @cached_property
    def optimizer_hash(self) -> str:
        """The hash of the file of `model.optimizer`, which the study must have."""
        from influence_assets.models.weights import optimizer_hash

        return optimizer_hash(Path(str(self.study.model.optimizer)), self.weights_cache)

    @cached_property
    def device(self) -> str:
        """The device of `compute.device`, with `auto` resolved."""
        from influence_assets.models.devices import resolve_device

        return resolve_device(self.study.compute.device)


def _file_of(files: dict[str, _File], key: str, path: str) -> _File:
    if key not in files:
        raise InputError(f"{path}/{key}", "this file no longer exists", "Put it back, or leave out its partition.")
    return files[key]
