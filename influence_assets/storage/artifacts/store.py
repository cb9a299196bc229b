"""The store: immutable folders, one for each artifact, that only their manifests make trustworthy.

`<asset>/<partition or "all">/<data version>/` holds `manifest.json`, `arrays/<name>/` (Zarr 3), `<table>.parquet` and
other files. A folder is filled elsewhere and published whole. What is found to be damaged is marked, and replaced when
it is computed again. Where all of it lies is the backend's to know (see `influence_assets.storage.backend`).
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
    """What `ArtifactStore.write` is told of how an artifact comes about, for its manifest.

    Attributes:
        settings: the settings that matter to it.
        run_id: the run that computes it.
        device: the accelerator that computes it.
    """

    settings: dict[str, JsonValue]
    run_id: str | None
    device: str | None


class ArtifactStore:
    """All artifacts of one study.

    Args:
        backend: where they lie; `open_or_create` prepares it.
        study: the study's name.
    """

    def __init__(self, backend: Backend, study: str) -> None:
        self.backend = backend
        self.study = study

    @classmethod
    def open_or_create(cls, root: str | Path, study: str) -> "ArtifactStore":
        """Open a study's store, or begin one.

        Args:
            root: the value of `storage.root`.
            study: the study's name.

        Raises:
            InputError: the root cannot be written, or holds the store of another study, or other things.
            StorageError: the store was written by another version, or its marker is damaged.
        """
        backend = open_backend(str(root))
        prepare(backend, study)
        return cls(backend, study)

    @property
    def root(self) -> Path:
        """The folder of what must be files of this machine: the catalogue, caches, drafts (see `Backend`)."""
        return self.backend.local_root

    def place(self, key: ArtifactKey) -> Path:
        """Return where an artifact's files are on this machine, or come to be when they are read."""
        return self.root / names.place_of(key)

    def holds(self, key: ArtifactKey) -> bool:
        """Whether the artifact is there and not marked as damaged. Nothing is read: made to be asked of thousands."""
        place = names.place_of(key)
        size = self.backend.size
        return size(f"{place}/{MANIFEST}") is not None and size(f"{place}/{DAMAGE_MARK}") is None

    def is_damaged(self, key: ArtifactKey) -> bool:
        """Whether the artifact is there and marked as damaged."""
        return self.backend.size(f"{names.place_of(key)}/{DAMAGE_MARK}") is not None

    def has_content(self, key: ArtifactKey) -> bool:
        """Whether the artifact's folder is there, whole or damaged, and not only a record of it."""
        return ownership.is_artifact(self.backend, names.place_of(key), self.study)

    def open(self, key: ArtifactKey) -> Artifact:
        """Open an artifact to read it: its manifest is as it was written, and so are the sizes of its files.

        Raises:
            DamagedError: it is not, or it is marked as damaged.
            StorageError: it is not there, or cannot be read, or something else lies there.
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

    def manifest(self, key: ArtifactKey) -> Manifest | None:
        """The manifest of an artifact that is there, damaged or recorded; None where there is none to be read."""
        return self._manifest_at(names.place_of(key), with_records=True)

    def manifests(
        self,
        asset: str | None = None,
        partition: str | EveryPartition | None = EVERY_PARTITION,
        *,
        with_records: bool = False,
        with_damaged: bool = False,
    ) -> Iterator[Manifest]:
        """The manifests of the artifacts that are there, sorted by asset, partition and version in their folders.

        Also those that are damaged, which `open` refuses, while their record is whole: they say what something was
        made of.

        Args:
            asset: of this asset alone.
            partition: of this partition alone; None is the only one of assets without partitions.
            with_records: of artifacts of which only a record is left too.
            with_damaged: of artifacts that are marked as damaged too.
        """
        for folder in partition_folders(self.backend, asset, partition):
            for place in names.places_in(self.backend, folder, with_records=with_records):
                if not with_damaged and self.backend.size(f"{place}/{DAMAGE_MARK}") is not None:
                    continue
                manifest = self._manifest_at(place, with_records=with_records)
                if manifest is not None:
                    yield manifest

    def mark_damaged(self, folder: Path, files: Sequence[str], problem: str) -> bool:
        """Mark an artifact as damaged: it is not held any more, and writing it again replaces it.

        Where nothing lies that the product made, nothing is marked. A record that is damaged is mended from the
        artifact beside it, or from its other copy; where there is neither, it is removed.

        Args:
            folder: the artifact's, as errors and `verify` name it.
            files: what is damaged, by path inside the folder.
            problem: what is wrong, in one clause.

        Returns:
            Whether it was mended.

        Raises:
            StorageError: the disk refuses.
        """
        place = folder.relative_to(self.root).as_posix() if folder.is_relative_to(self.root) else ""
        if place.count("/") != 2:  # asset, partition, version
            raise ValueError(f"{folder} is not the place of an artifact in {self.root}")
        if not self._is_ours(place):
            return False
        with self._publishing_lock(place):
            return mending.mark_or_mend(self.backend, place, self.study, files, problem)

    def verify(self, progress: Callable[[int, int], object] = lambda _done, _total: None) -> Iterator[damage.Damage]:
        """Read every file of every artifact again and tell what is not as it was written. Nothing is marked.

        Args:
            progress: called with the artifacts read so far and all of them.
        """
        all_places = [place for place in every_place(self.backend, with_records=True) if self._is_ours(place)]
        progress(0, len(all_places))
        for number, place in enumerate(all_places, start=1):
            found = damage.find_damage(self.backend, place, self.study)
            progress(number, len(all_places))
            if found is not None:
                yield found

    def shared_lock(self) -> AbstractContextManager[None]:
        """Held by everybody who computes or reads artifacts, together: nothing is removed meanwhile.

        A process may hold it several times. Waits while somebody holds it exclusively.

        Raises:
            StorageError: the disk refuses.
        """
        return locks.shared_lock(self.backend)

    def exclusive_lock(self) -> AbstractContextManager[None]:
        """Held to remove things, by one at a time.

        Raises:
            StorageError: somebody is at work, and still is after a few seconds.
        """
        return locks.exclusive_lock(self.backend)

    @contextmanager
    def partition_lock(self, key: ArtifactKey) -> Iterator[None]:
        """Held by one at a time while a partition is computed; waits for it. Ask `holds` again once it is held.

        Not to be held twice by one thread. The store counts as in use meanwhile.

        Raises:
            StorageError: the disk refuses.
        """
        partition = names.parent_of(names.place_of(key))
        with self.shared_lock(), locks.named_lock(self.backend, f"{partition}/{names.PARTITION_LOCK}"):
            yield

    def remove(self, key: ArtifactKey) -> int:
        """Remove an artifact and its record, and return the bytes freed. To be called with the exclusive lock.

        Raises:
            StorageError: the disk refuses.
        """
        place = names.place_of(key)
        manifest = self._manifest_at(place, with_records=True)
        return removal.remove_artifact(self.backend, place, self.study, manifest)

    def reduce_to_record(self, key: ArtifactKey) -> int:
        """Remove an artifact, all but its manifest, and return the bytes freed. To be called with the exclusive lock.

        Where the manifest cannot be read, nothing of it is kept.

        Raises:
            StorageError: the disk refuses.
        """
        place = names.place_of(key)
        manifest = self._manifest_at(place, with_records=True)
        if manifest is None:
            return removal.remove_artifact(self.backend, place, self.study, None)
        return removal.reduce_artifact(self.backend, place, manifest)

    def remove_unreadable(self) -> int:
        """Remove what is marked as damaged and of which nobody can say what it is; returns the bytes freed.

        To be called with the exclusive lock.

        Raises:
            StorageError: the disk refuses.
        """
        places = every_place(self.backend, with_records=False)
        marked = [place for place in places if self.backend.size(f"{place}/{DAMAGE_MARK}") is not None]
        lost = [place for place in marked if self._manifest_at(place, with_records=True) is None]
        return sum(removal.remove_artifact(self.backend, place, self.study, None) for place in lost)

    def remove_empty_folders(self) -> list[Path]:
        """Remove folders in which only locks are left, and return them. To be called with the exclusive lock."""
        return [self.root / name for name in self.backend.remove_empty_folders()]

    def remove_abandoned_drafts(self) -> list[Path]:
        """Remove what processes of this host that have ended left half written or half removed, and return it.

        With the exclusive lock, that of all processes.

        Raises:
            StorageError: with the exclusive lock, something cannot be removed.
        """
        of_everybody = locks.holds_exclusively(self.backend)
        with removing("what was left half written", self.backend.location):
            return [self.root / name for name in self.backend.remove_abandoned(of_everybody=of_everybody)]

    @contextmanager
    def write(
        self, key: ArtifactKey, *, inputs: Sequence[ArtifactKey], code_version: str, **provenance: Unpack[Provenance]
    ) -> Iterator[Draft]:
        """Write an artifact: fill the draft; leaving the block without an exception publishes it.

        Where the same version stands already, the draft is dropped: the same version is the same content.
        After an exception nothing is left of the draft, and what stood before still stands.

        Args:
            key: what is written.
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
        """Publish a complete draft, unless a complete artifact came first."""
        place = names.place_of(manifest.key)
        # The lock keeps two writers from both removing a damaged artifact, one of them the other's good one.
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
