"""The store of artifacts: one immutable folder for each, checked against its manifest.

`<asset>/<partition or "all">/<data version>/` holds `manifest.json`, `arrays/<name>/` (Zarr 3), `<table>.parquet` and
other files. A folder is filled elsewhere and published as a whole. Damaged artifacts are marked, and replaced when they
are computed again. The backend knows where the files are (see `influence_assets.storage.backend`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TypedDict, Unpack

from pydantic import JsonValue

from influence_assets.errors import DamagedError, StorageError
from influence_assets.storage.artifacts import damage, locks, mending, names, ownership, removal
from influence_assets.storage.artifacts.drafts import Draft
from influence_assets.storage.artifacts.listing import EVERY_PARTITION, EveryPartition, every_place, partition_folders
from influence_assets.storage.artifacts.manifest import ArtifactKey, Manifest
from influence_assets.storage.artifacts.names import DAMAGE_MARK, MANIFEST
from influence_assets.storage.artifacts.reading import Artifact, open_artifact
from influence_assets.storage.artifacts.roots import prepare
from influence_assets.storage.backend import Backend, open_backend
from influence_assets.storage.disk_errors import computing, removing, writing


class Provenance(TypedDict, total=False):
    """Circumstances of an artifact's computation, for its manifest.

    Attributes:
        settings: the settings of the study that affect the artifact.
        run_id: the run that computes it.
        device: the accelerator that computes it.
    """

    settings: dict[str, JsonValue]
    run_id: str | None
    device: str | None


class ArtifactStore:
    """All artifacts of one study.

    Args:
        backend: the store's files; `open_or_create` prepares it.
        study: the study's name.
        mended_marker: what was wrong with the store's marker, as a clause, if opening the store has mended it.
    """

    def __init__(self, backend: Backend, study: str, mended_marker: str | None = None) -> None:
        self.backend = backend
        self.study = study
        self.mended_marker = mended_marker

    @classmethod
    def open_or_create(cls, root: str | Path, study: str) -> "ArtifactStore":
        """Open a study's store, or create it.

        Args:
            root: the value of `storage.root`.
            study: the study's name.

        Raises:
            InputError: the root cannot be written, or holds the store of another study, or other files.
            StorageError: the store was written by another version, or its marker is damaged.
        """
        backend = open_backend(str(root))
        return cls(backend, study, prepare(backend, study))

    @property
    def root(self) -> Path:
        """The folder of what must be on this machine: the catalogue, caches and drafts (see `Backend`)."""
        return self.backend.local_root

    def has_any(self, asset: str, partition: str | None) -> bool:
        """Return whether there has been an artifact of a partition, whatever its version and whatever is left of it."""
        return self.backend.is_folder(names.folder_of(asset, partition))

    def place(self, key: ArtifactKey) -> Path:
        """Return the folder on this machine that holds an artifact's files, or will hold them once they are read."""
        return self.root / names.place_of(key)

    def holds(self, key: ArtifactKey) -> bool:
        """Return whether the artifact exists and is not marked as damaged, without reading any file."""
        place = names.place_of(key)
        size = self.backend.size
        return size(f"{place}/{MANIFEST}") is not None and size(f"{place}/{DAMAGE_MARK}") is None

    def is_damaged(self, key: ArtifactKey) -> bool:
        """Return whether the artifact exists and is marked as damaged."""
        return self.backend.size(f"{names.place_of(key)}/{DAMAGE_MARK}") is not None

    def has_content(self, key: ArtifactKey) -> bool:
        """Return whether the artifact's folder exists, intact or damaged, and not only its record."""
        return ownership.is_artifact(self.backend, names.place_of(key), self.study)

    def open(self, key: ArtifactKey) -> Artifact:
        """Open an artifact to read it, after checking its manifest and the sizes of its files.

        Raises:
            DamagedError: a check fails, or the artifact is marked as damaged.
            StorageError: the artifact does not exist or cannot be read, or something else is in its place.
        """
        place = names.place_of(key)
        try:
            error = damage.marked_damage(self.backend, place)
            if error is not None:
                raise error
            return open_artifact(self.backend, place, self.study)
        except DamagedError:
            if self.backend.is_folder(place) and not self.has_content(key):
                ownership.refuse_foreign(self.backend, place)
            raise

    def open_what_is_left(self, key: ArtifactKey) -> Artifact:
        """Open an artifact, or one of which only the manifest is left; reading anything else of that raises.

        Raises:
            DamagedError: as for `open`.
            StorageError: there is not even a manifest.
        """
        if self.holds(key):
            return self.open(key)
        manifest = self.manifest(key)
        if manifest is None:
            raise StorageError(f"{key} does not exist")
        return Artifact(self.backend, names.place_of(key), manifest)

    def manifest(self, key: ArtifactKey) -> Manifest | None:
        """Return the manifest of an artifact, even if it is damaged or only its record is left; None without one."""
        return self._manifest_at(names.place_of(key), with_records=True)

    def manifests(
        self,
        asset: str | None = None,
        partition: str | EveryPartition | None = EVERY_PARTITION,
        *,
        with_records: bool = False,
        with_damaged: bool = False,
    ) -> Iterator[Manifest]:
        """Yield the manifests of artifacts, sorted by asset, partition and version.

        A damaged artifact, which `open` refuses, has a manifest too as long as its record is intact: it says what the
        artifact was computed from.

        Args:
            asset: only artifacts of this asset.
            partition: only artifacts of this partition; None is the only one of assets without partitions.
            with_records: include artifacts of which only a record is left.
            with_damaged: include artifacts that are marked as damaged.
        """
        for folder in partition_folders(self.backend, asset, partition):
            for place in names.places_in(self.backend, folder, with_records=with_records):
                if not with_damaged and self.backend.size(f"{place}/{DAMAGE_MARK}") is not None:
                    continue
                manifest = self._manifest_at(place, with_records=with_records)
                if manifest is not None:
                    yield manifest

    def mark_damaged(self, folder: Path, files: Sequence[str], problem: str) -> bool:
        """Mark an artifact as damaged: `holds` is then False, and writing the artifact again replaces it.

        Folders that this product did not make are not marked. A damaged record is repaired from the artifact beside
        it, or from its other copy; without either it is removed.

        Args:
            folder: the artifact's folder, as errors and `verify` name it.
            files: the damaged files, by path inside the folder.
            problem: what is wrong, in one clause.

        Returns:
            Whether the damage was that of a record and was repaired.

        Raises:
            StorageError: the disk cannot be written.
        """
        place = folder.relative_to(self.root).as_posix() if folder.is_relative_to(self.root) else ""
        if place.count("/") != 2:  # asset, partition, version
            raise ValueError(f"{folder} is not the place of an artifact in {self.root}")
        if not self._is_ours(place):
            return False
        with self._publishing_lock(place):
            return mending.mark_or_mend(self.backend, place, self.study, files, problem)

    def verify(self, progress: Callable[[int, int], object] = lambda _done, _total: None) -> Iterator[damage.Damage]:
        """Read every file of every artifact again and yield the damage, without marking it.

        Args:
            progress: called with the number of artifacts read so far and the number of all of them.
        """
        all_places = [place for place in every_place(self.backend, with_records=True) if self._is_ours(place)]
        progress(0, len(all_places))
        for number, place in enumerate(all_places, start=1):
            damage_in_place = damage.find_damage(self.backend, place, self.study)
            progress(number, len(all_places))
            # A run beside may have removed a checkpoint, or what is no longer needed, since the places were listed.
            if damage_in_place is not None and self._is_ours(place):
                yield damage_in_place

    def shared_lock(self) -> AbstractContextManager[None]:
        """Hold the store's shared lock, which keeps others from removing anything while artifacts are computed or read.

        A process may hold it several times. Entering waits while another thread or process holds the exclusive lock.

        Raises:
            StorageError: the disk reports an error.
        """
        return locks.shared_lock(self.backend)

    def exclusive_lock(self) -> AbstractContextManager[None]:
        """Hold the store's exclusive lock, which is needed to remove things.

        Raises:
            StorageError: the store is in use and still is after a few seconds.
        """
        return locks.exclusive_lock(self.backend)

    @contextmanager
    def partition_lock(self, key: ArtifactKey) -> Iterator[None]:
        """Hold the lock for computing a partition, after waiting for it; call `holds` again once you have it.

        A thread must not hold it twice. It includes the store's shared lock.

        Raises:
            StorageError: the disk reports an error.
        """
        partition = names.parent_of(names.place_of(key))
        with self.shared_lock(), locks.named_lock(self.backend, f"{partition}/{names.PARTITION_LOCK}"):
            yield

    def remove(self, key: ArtifactKey) -> int:
        """Remove an artifact and its record, and return the number of bytes freed.

        Hold the exclusive lock, or the lock of its partition for what only those read who hold that lock.

        Raises:
            StorageError: the disk reports an error.
        """
        place = names.place_of(key)
        manifest = self._manifest_at(place, with_records=True)
        return removal.remove_artifact(self.backend, place, self.study, manifest)

    def reduce_to_record(self, key: ArtifactKey) -> int:
        """Remove an artifact except for its record, and return the number of bytes freed; locks as for `remove`.

        If no copy of the manifest can be read, the record is removed too.

        Raises:
            StorageError: the disk reports an error.
        """
        place = names.place_of(key)
        manifest = self._manifest_at(place, with_records=True)
        if manifest is None:
            return removal.remove_artifact(self.backend, place, self.study, None)
        return removal.reduce_artifact(self.backend, place, manifest)

    def remove_unreadable(self) -> int:
        """Remove damaged artifacts that have no readable manifest left, and return the number of bytes freed.

        Hold the exclusive lock.

        Raises:
            StorageError: the disk reports an error.
        """
        places = every_place(self.backend, with_records=False)
        marked = [place for place in places if self.backend.size(f"{place}/{DAMAGE_MARK}") is not None]
        unreadable = [place for place in marked if self._manifest_at(place, with_records=True) is None]
        return sum(removal.remove_artifact(self.backend, place, self.study, None) for place in unreadable)

    def remove_empty_folders(self) -> list[Path]:
        """Remove folders in which only locks are left, and return them. Hold the exclusive lock."""
        return [self.root / name for name in self.backend.remove_empty_folders()]

    def remove_abandoned_drafts(self) -> list[Path]:
        """Remove what processes on this host left half written or half removed when they ended, and return the paths.

        Under the exclusive lock, what processes on other hosts left is removed too.

        Raises:
            StorageError: something cannot be removed; only under the exclusive lock.
        """
        is_alone = locks.holds_exclusively(self.backend)
        with removing("what was left half written", self.backend.location):
            return [self.root / name for name in self.backend.remove_abandoned(including_live_elsewhere=is_alone)]

    @contextmanager
    def write(
        self, key: ArtifactKey, *, inputs: Sequence[ArtifactKey], code_version: str, **provenance: Unpack[Provenance]
    ) -> Iterator[Draft]:
        """Write an artifact: fill the draft in the block; leaving the block without an exception publishes it.

        If the same version exists already, the draft is dropped, because the same version means the same content.
        After an exception nothing is left of the draft, and the store is as it was before.

        Args:
            key: the artifact to write.
            inputs: the artifacts that it is computed from.
            code_version: version of the code that computes it.
            provenance: see `Provenance`.
        """
        place = names.place_of(key)
        where = self.root / names.parent_of(place)
        with self.shared_lock(), ExitStack() as stack:
            with writing(str(key), where):
                folder = stack.enter_context(self.backend.draft(place))
            draft = Draft(folder)
            with computing(str(key), where):
                yield draft
            manifest = draft.close(
                key,
                study=self.study,
                code_version=code_version,
                inputs=tuple(inputs),
                settings=provenance.get("settings", {}),
                run_id=provenance.get("run_id"),
                device=provenance.get("device"),
            )
            with writing(str(key), where):
                self._publish(folder, manifest)

    def _publish(self, draft: Path, manifest: Manifest) -> None:
        """Publish a complete draft, unless another process has published the same artifact."""
        place = names.place_of(manifest.key)
        # Without the lock, two writers could both replace a damaged artifact, and one remove the other's intact one.
        with self._publishing_lock(place):
            if self._is_complete(manifest.key):
                return
            removal.clear(self.backend, place, self.study, self._manifest_at(place, with_records=True))
            try:
                self.backend.publish(draft, place)
            except FileExistsError:
                ownership.refuse_foreign(self.backend, place)
            removal.write_record(self.backend, place, manifest, is_alone=False)

    def _publishing_lock(self, place: str) -> AbstractContextManager[None]:
        return locks.named_lock(self.backend, f"{names.parent_of(place)}/{names.PUBLISHING_LOCK}")

    def _is_complete(self, key: ArtifactKey) -> bool:
        try:
            self.open(key)
        except StorageError:
            return False
        return True

    def _is_ours(self, place: str) -> bool:
        return any(is_it(self.backend, place, self.study) for is_it in (ownership.is_artifact, ownership.is_record))

    def _manifest_at(self, place: str, *, with_records: bool) -> Manifest | None:
        return damage.known_manifest(self.backend, place, self.study, with_records=with_records)
