"""Checks that failed stay outstanding until they hold: they are listed in the store, and repeated by every run.

The catalogue is built from other artifacts, so it is built again when one of its checks fails. Other artifacts are left
as they are: computing them again from the same inputs would give the same, and a person has to look.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from influence_assets.durable.caches import sealed, unsealed
from influence_assets.engine.catalogue import rebuild_catalogue
from influence_assets.engine.checks import Finding
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import DamagedError, StorageError
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.locks import named_lock
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.storage.backend import Backend
from influence_assets.storage.catalogue import is_as_published, loader_lock, was_built_anew
from influence_assets.storage.disk_errors import writing

_FILE = ".cache/failed_checks.json"
_LOCK = ".failed_checks.lock"

Findings = Sequence[tuple[str, Finding]]


@dataclass(frozen=True)
class FailedCheck:
    """A check that does not hold of an artifact that the study needs.

    Args:
        asset: the artifact's asset.
        partition: its partition.
        name: the check, as a statement of what should hold.
        folder: the artifact's folder.
        member: the member of the ensemble that it is of; 0 is the study's own model.
    """

    asset: AssetDefinition
    partition: Partition
    name: str
    folder: Path
    member: int = 0

    @property
    def label(self) -> str:
        """The artifact and the check, for people."""
        place = f"[{self.partition.key}]" if self.partition.key else ""
        of_member = f" of member {self.member}" if self.member else ""
        return f"{self.asset.name}{place}{of_member}: {self.name}"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        if self.asset.is_catalogue:
            return (
                "`influence verify` says whether its rows are those of the artifacts. `influence run` repeats the "
                "check, and builds the catalogue again if it was changed."
            )
        return (
            f"`influence run` repeats the check. If what it was computed from is right, remove {self.folder} and run "
            "again, so that it is computed again."
        )


@dataclass
class Recheck:
    """What became of the checks that were outstanding.

    Args:
        repeated: the findings of each artifact whose checks were repeated, but for an ensemble's further members.
        failed: the checks that do not hold now.
        mended: what was wrong and was put right, in a sentence each.
    """

    repeated: list[tuple[AssetDefinition, Partition, Findings]] = field(default_factory=list)
    failed: list[FailedCheck] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)


class _List:
    """The store's list of artifacts with failed checks.

    Args:
        backend: the store's backend.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def read(self) -> dict[ArtifactKey, list[str]] | None:
        """Return the names of the failed checks by artifact; None if the list was never written, or is damaged."""
        try:
            rows = unsealed(self._backend.read(_FILE))
        except OSError:
            return None
        return None if rows is None else {ArtifactKey(*key): names for *key, names in rows}

    def replace(self, key: ArtifactKey, names: Collection[str]) -> None:
        """Write down which checks of an artifact fail now; a list that was never written stays so."""
        listed = self.read()
        if listed is None or listed.get(key, []) == list(names):
            return
        with named_lock(self._backend, _LOCK):
            listed = self.read() or {}
            listed.pop(key, None)
            self._write(listed | ({key: list(names)} if names else {}))

    def begin(self, listed: Mapping[ArtifactKey, Sequence[str]]) -> None:
        """Write a list that was never written, or lost."""
        with named_lock(self._backend, _LOCK):
            if self.read() is None:
                self._write(listed)

    def forget(self, is_gone: Callable[[ArtifactKey], bool]) -> None:
        """Take artifacts off the list that are no longer there."""
        listed = self.read()
        if listed is None or not any(map(is_gone, listed)):
            return
        with named_lock(self._backend, _LOCK):
            self._write({key: names for key, names in (self.read() or {}).items() if not is_gone(key)})

    def _write(self, listed: Mapping[ArtifactKey, Sequence[str]]) -> None:
        rows = [(key.asset, key.partition, key.data_version, list(names)) for key, names in listed.items()]
        with writing("the list of failed checks", self._backend.location):
            self._backend.write(_FILE, sealed(rows))


def look_at(workspace: Workspace, asset: AssetDefinition, artifact: Artifact) -> Findings:
    """Run the checks of an artifact, and list those that fail as outstanding.

    Raises:
        StorageError: the artifact, or one that it was computed from, cannot be read.
    """
    findings = list(asset.checks.findings(artifact, workspace.store.open))
    _List(workspace.store.backend).replace(artifact.key, _failing(findings))
    return findings


def outstanding(versions: Versions) -> list[FailedCheck]:
    """Return the checks that failed when they were last run, of artifacts that the study needs; runs none of them."""
    workspace = versions.workspace
    return [
        FailedCheck(place.asset, place.partition, name, workspace.store.place(key), place.versions.number)
        for key, names in (_List(workspace.store.backend).read() or {}).items()
        for place in _place_of(versions, key)
        for name in names
    ]


def repeat_outstanding(versions: Versions) -> Recheck:
    """Repeat the checks that failed, build the catalogue again if one of its fails, and say what still fails.

    If it is not known which checks failed, because the list of them is lost or older than the store, all are repeated.

    Raises:
        StorageError: the list or the catalogue cannot be written.
    """
    workspace, recheck = versions.workspace, Recheck()
    with workspace.store.shared_lock():
        failed_checks = _List(workspace.store.backend)
        listed = failed_checks.read()
        places = _all_places(versions) if listed is None else [p for key in listed for p in _place_of(versions, key)]
        catalogue = workspace.graph.catalogue
        if _rebuilt_if_changed(versions, recheck) and catalogue is not None:
            own = _Place(versions, catalogue, Partition())
            places = [*(place for place in places if place.asset is not catalogue), own]
        failing = {key: names for place in places for key, names in _repeat(place, recheck).items() if names}
        if listed is None:  # only now that all were looked at: a run that ends before leaves them to the next
            failed_checks.begin(failing)
        failed_checks.forget(lambda key: not workspace.store.holds(key))
    recheck.failed = outstanding(versions)
    return recheck


def begin_list(workspace: Workspace) -> None:
    """Begin the list of failed checks in a store that holds nothing yet, so that no check is run a second time.

    Raises:
        StorageError: it cannot be written.
    """
    failed_checks = _List(workspace.store.backend)
    if failed_checks.read() is None and next(iter(workspace.store.manifests()), None) is None:
        failed_checks.begin({})


@dataclass(frozen=True)
class _Place:
    """A partition, with the versions of the member of the ensemble that it is of."""

    versions: Versions
    asset: AssetDefinition
    partition: Partition


def _repeat(place: _Place, recheck: Recheck) -> dict[ArtifactKey, list[str]]:
    """Repeat the checks of one artifact, and return the names of those that fail, by the artifact.

    If it is the catalogue and a check fails, build it again, but only once.
    """
    versions, asset, partition = place.versions, place.asset, place.partition
    key = versions.key(asset, partition)
    if key is None:
        return {}
    workspace = versions.workspace
    try:
        artifact = workspace.store.open(key)
        findings = look_at(workspace, asset, artifact)
        failing = _failing(findings)
        if failing and asset.is_catalogue and not was_built_anew(workspace.catalogue):
            rebuild_catalogue(versions)
            findings = look_at(workspace, asset, artifact)
            if not _failing(findings):
                recheck.mended.append(f"Checks of the catalogue failed ({', '.join(failing)}), so it was built again.")
    except DamagedError as error:
        workspace.store.mark_damaged(error.folder, error.files, error.problem)
        raise
    if not versions.number:
        recheck.repeated.append((asset, partition, findings))
    return {key: _failing(findings)}


def _rebuilt_if_changed(versions: Versions, recheck: Recheck) -> bool:
    """Build the catalogue again if it is up to date but not as it was published; return whether it was."""
    catalogue, path = versions.workspace.graph.catalogue, versions.workspace.catalogue
    if catalogue is None or not versions.stands(catalogue, Partition()) or is_as_published(path):
        return False
    with loader_lock(path):  # another run may be publishing
        if is_as_published(path):
            return False
    rebuild_catalogue(versions)
    recheck.mended.append("The catalogue was not as it was published, and was built again.")
    return True


def _all_places(versions: Versions) -> list[_Place]:
    places = {
        key: _Place(each, asset, partition)
        for each in (*versions.members, versions)  # what members share is the study's own
        for asset in each.workspace.graph
        if asset.checks.descriptions()
        for partition in each.partitions(asset)
        if (key := each.key(asset, partition)) is not None and each.holds(key)
    }
    return list(places.values())


def _place_of(versions: Versions, key: ArtifactKey) -> Iterator[_Place]:
    """Yield the partition whose current version an artifact is, if it is one."""
    for each in (versions, *versions.members):
        asset = each.workspace.graph.get(key.asset)
        if asset is None:
            continue
        with suppress(StorageError):
            partition = Partition.parse(asset.partitioned_by, key.partition)
            if partition in each.partitions(asset) and each.key(asset, partition) == key and each.holds(key):
                yield _Place(each, asset, partition)
                return


def _failing(findings: Findings) -> list[str]:
    return [name for name, finding in findings if finding.blocking and not finding.passed]
