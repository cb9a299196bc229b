"""The store: immutable folders, one for each artifact, that only their manifests make trustworthy.

`<root>/<asset>/<partition or "all">/<data version>/` holds `manifest.json`, `arrays/<name>/` (Zarr 3),
`<table>.parquet` and other files. A folder is written hidden beside its place and renamed when complete; it is
renamed again before it is removed. What is found to be damaged is marked, and replaced when it is computed again.
"""

import enum
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final, TypedDict, Unpack

from pydantic import JsonValue

from influence_assets.errors import DamagedError, StorageError
from influence_assets.storage import damage, files, locks, ownership, places, removal
from influence_assets.storage.disk_errors import computing, writing
from influence_assets.storage.drafts import Draft
from influence_assets.storage.files import safe_name
from influence_assets.storage.manifest import ArtifactKey, Manifest
from influence_assets.storage.places import DAMAGE_MARK, MANIFEST, partition_name
from influence_assets.storage.reading import Artifact, manifest_of, open_artifact
from influence_assets.storage.roots import MARKER, prepare

__all__ = ["EVERY_PARTITION", "MARKER", "Artifact", "ArtifactStore", "Provenance"]


class EveryPartition(enum.Enum):
    """The type of `EVERY_PARTITION`, which None cannot stand for: it is the partition of assets without any."""

    EVERY_PARTITION = enum.auto()


EVERY_PARTITION: Final = EveryPartition.EVERY_PARTITION


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
    """All artifacts of one study below one folder.

    Args:
        root: the folder, which `open_or_create` prepares.
        study: the study's name.
    """

    def __init__(self, root: Path, study: str) -> None:
        self.root = root
        self.study = study

    @classmethod
    def open_or_create(cls, root: Path, study: str) -> "ArtifactStore":
        """Open a study's store, or begin one.

        Raises:
            InputError: the root cannot be written, or holds the store of another study.
            StorageError: the store was written by another version, or its marker is damaged.
        """
        prepare(root, study)
        return cls(root, study)

    def place(self, key: ArtifactKey) -> Path:
        """The folder of an artifact, whether it is there or not."""
        return places.place_of(self.root, key)

    def holds(self, key: ArtifactKey) -> bool:
        """Whether the artifact is there and not marked as damaged. Nothing is read: made to be asked of thousands."""
        place = f"{self.root}/{safe_name(key.asset)}/{partition_name(key.partition)}/{safe_name(key.data_version)}"
        return _exists(f"{place}/{MANIFEST}") and not _exists(f"{place}/{DAMAGE_MARK}")

    def is_damaged(self, key: ArtifactKey) -> bool:
        """Whether the artifact is there and marked as damaged."""
        return _exists(f"{self.place(key)}/{DAMAGE_MARK}")

    def has_content(self, key: ArtifactKey) -> bool:
        """Whether the artifact's folder is there, whole or damaged, and not only a record of it."""
        return ownership.is_artifact(self.place(key), self.study)

    def open(self, key: ArtifactKey) -> Artifact:
        """Open an artifact to read it: its manifest is as it was written, and so are the sizes of its files.

        Raises:
            DamagedError: it is not, or it is marked as damaged.
            StorageError: it is not there, or cannot be read, or something else lies there.
        """
        place = self.place(key)
        try:
            error = damage.marked_damage(place)
            if error is not None:
                raise error
            return open_artifact(place, self.study)
        except DamagedError:
            if os.path.lexists(place) and not ownership.is_artifact(place, self.study):
                ownership.refuse_foreign(place, "an artifact")
            raise

    def manifest(self, key: ArtifactKey) -> Manifest | None:
        """The manifest of an artifact that is there, damaged or recorded; None where there is none to be read."""
        return self._manifest_at(self.place(key), with_records=True)

    def manifests(
        self,
        asset: str | None = None,
        partition: str | EveryPartition | None = EVERY_PARTITION,
        *,
        with_records: bool = False,
        with_damaged: bool = False,
    ) -> Iterator[Manifest]:
        """The manifests of the artifacts that are there, sorted by asset, partition and version in their folders.

        Also those of which one copy is damaged, which `open` refuses: they say what something was made of.

        Args:
            asset: of this asset alone.
            partition: of this partition alone; None is the only one of assets without partitions.
            with_records: of artifacts of which only a record is left too.
            with_damaged: of artifacts that are marked as damaged too.
        """
        for folder in self._partition_folders(asset, partition):
            for place in places.places_below(folder, with_records=with_records):
                if not with_damaged and _exists(f"{place}/{DAMAGE_MARK}"):
                    continue
                manifest = self._manifest_at(place, with_records=with_records)
                if manifest is not None:
                    yield manifest

    def mark_damaged(self, folder: Path, names: Sequence[str], problem: str) -> bool:
        """Mark an artifact as damaged: it is not held any more, and writing it again replaces it.

        Where nothing lies that the product made, nothing is marked. Of a record that is damaged one copy mends the
        other, and if both are damaged, it is removed.

        Args:
            folder: the artifact's.
            names: what is damaged, by path inside the folder.
            problem: what is wrong, in one clause.

        Returns:
            Whether it was mended.

        Raises:
            StorageError: the disk refuses.
        """
        if folder.parent.parent.parent != self.root:
            raise ValueError(f"{folder} is not the place of an artifact in {self.root}")
        if not self._is_ours(folder):
            return False
        with locks.locked(folder.parent / locks.PUBLISHING):
            if ownership.is_artifact(folder, self.study):
                damage.mark(folder, names, problem)
            elif damage.find_damage(folder, self.study) is not None:
                manifest = self._manifest_at(folder, with_records=True)
                if manifest is None:
                    removal.remove_artifact(folder, self.study, None)
                else:
                    removal.reduce_artifact(folder, manifest)
                    return True
        return False

    def verify(self, progress: Callable[[int, int], object] = lambda _done, _total: None) -> Iterator[damage.Damage]:
        """Read every file of every artifact again and tell what is not as it was written. Nothing is marked.

        Args:
            progress: called with the artifacts read so far and all of them.
        """
        folders = self._partition_folders(None, EVERY_PARTITION)
        all_places = [
            place
            for folder in folders
            for place in places.places_below(folder, with_records=True)
            if self._is_ours(place)
        ]
        progress(0, len(all_places))
        for number, place in enumerate(all_places, start=1):
            found = damage.find_damage(place, self.study)
            progress(number, len(all_places))
            if found is not None:
                yield found

    def shared_lock(self) -> AbstractContextManager[None]:
        """Held by everybody who computes or reads artifacts, together: nothing is removed meanwhile.

        A process may hold it several times. Waits while somebody has the store alone.

        Raises:
            StorageError: the disk refuses.
        """
        return locks.shared_lock(self.root)

    def exclusive_lock(self) -> AbstractContextManager[None]:
        """Held to remove things, by one at a time.

        Raises:
            StorageError: somebody is at work, and still is after a few seconds.
        """
        return locks.exclusive_lock(self.root)

    @contextmanager
    def partition_lock(self, key: ArtifactKey) -> Iterator[None]:
        """Held by one at a time while a partition is computed; waits for it. Ask `holds` again once it is held.

        Not to be held twice by one thread. The store counts as in use meanwhile.

        Raises:
            StorageError: the disk refuses.
        """
        with self.shared_lock(), locks.locked(self.place(key).parent / locks.CLAIM):
            yield

    def remove(self, key: ArtifactKey) -> int:
        """Remove an artifact and its record, and return the bytes freed. To be called with the store alone.

        Raises:
            StorageError: the disk refuses.
        """
        place = self.place(key)
        return removal.remove_artifact(place, self.study, self._manifest_at(place, with_records=True))

    def reduce_to_record(self, key: ArtifactKey) -> int:
        """Remove an artifact, all but its manifest, and return the bytes freed. To be called with the store alone.

        Where the manifest cannot be read, nothing of it is kept.

        Raises:
            StorageError: the disk refuses.
        """
        place = self.place(key)
        manifest = self._manifest_at(place, with_records=True)
        if manifest is None:
            return removal.remove_artifact(place, self.study, None)
        return removal.reduce_artifact(place, manifest)

    def remove_unreadable(self) -> int:
        """Remove what is marked as damaged and of which nobody can say what it is; returns the bytes freed.

        To be called with the store alone.

        Raises:
            StorageError: the disk refuses.
        """
        folders = self._partition_folders(None, EVERY_PARTITION)
        all_places = (place for folder in folders for place in places.places_below(folder, with_records=False))
        damaged = [place for place in all_places if _exists(f"{place}/{DAMAGE_MARK}")]
        lost = [place for place in damaged if self._manifest_at(place, with_records=True) is None]
        return sum(removal.remove_artifact(place, self.study, None) for place in lost)

    def remove_empty_folders(self) -> list[Path]:
        """Remove folders in which only lock files are left, and return them. To be called with the store alone."""
        return removal.remove_empty_folders(self.root)

    def remove_abandoned_drafts(self) -> list[Path]:
        """Remove what processes of this host that have ended left half written or half removed, and return it.

        With the store alone, that of all processes.
        """
        return removal.remove_drafts(self.root)

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
        place = self.place(key)
        folder = places.draft_beside(place)
        with self.shared_lock():
            try:
                with writing(str(key), place.parent):
                    folder.mkdir(parents=True)
                with locks.holding(folder):
                    draft = Draft(folder)
                    with computing(str(key), place.parent):
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
                    with writing(str(key), place.parent):
                        self._publish(folder, manifest)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _publish(self, folder: Path, manifest: Manifest) -> None:
        """Rename a complete draft into its place, unless a complete artifact came first."""
        place = self.place(manifest.key)
        # The lock keeps two writers from both moving a damaged artifact aside, one of them the other's good one.
        with locks.locked(place.parent / locks.PUBLISHING):
            if self._is_complete(manifest.key):
                return
            replaced = removal.clear(place, self.study, self._manifest_at(place, with_records=True))
            folder.rename(place)
            for parent in (place.parent, place.parent.parent, self.root):
                files.sync_folder(parent)
            if replaced is not None:
                removal.is_deleted(replaced)
            removal.write_record(place, manifest)

    def _is_complete(self, key: ArtifactKey) -> bool:
        try:
            self.open(key)
        except StorageError:
            return False
        return True

    def _is_ours(self, place: Path) -> bool:
        return ownership.is_artifact(place, self.study) or ownership.is_record(place, self.study)

    def _manifest_at(self, place: Path, *, with_records: bool) -> Manifest | None:
        with suppress(StorageError):
            return manifest_of(place, self.study, salvage=True)
        if with_records:
            with suppress(StorageError):
                return manifest_of(place, self.study, places.record_beside(place), salvage=True)
        return None

    def _partition_folders(self, asset: str | None, partition: str | EveryPartition | None) -> Iterator[Path]:
        assets = places.visible_folders(self.root) if asset is None else [self.root / safe_name(asset)]
        for folder in assets:
            if isinstance(partition, EveryPartition):
                yield from places.visible_folders(folder)
            else:
                yield folder / partition_name(partition)


def _exists(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110  # a Path costs three times as much, for each of many thousands
