"""Reads everything that is stored, and reports what differs from what was written."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError, StorageError
from influence_assets.storage.artifacts.roots import MARKER
from influence_assets.storage.catalogue import (
    Difference,
    damaged_tables,
    differences,
    doubt_publication,
    loader_lock,
    published_identity,
    run_checks,
)
from influence_assets.upkeep import run_history

FILES_NAMED = 3
LOOKS = 5
"""How often the catalogue is compared if runs publish it meanwhile."""
REMEDY = "`influence run` computes it again; if it is no longer needed, `influence gc` removes it."
REBUILD = "`influence run` builds it again from the arrays and tables, and so does `influence rebuild-catalogue`."
OF_FAILED_CHECK = (
    "`influence run` builds the catalogue again if its rows are not those of the artifacts. If this is all that is "
    "wrong, they are: remove the folders of the artifacts that these rows came from, and run again."
)
MARKER_REPAIRED = "It was written again, because the artifacts show whose store it is."
REPAIRED = "It was repaired from its other copy."


@dataclass(frozen=True)
class Trouble:
    """Something that is damaged.

    Args:
        what: a name to show.
        where: the file or folder.
        problem: what is wrong with it.
        remedy: what repairs it.
    """

    what: str
    where: str
    problem: str
    remedy: str


def verify(workspace: Workspace, progress: Callable[[int, int], object]) -> list[Trouble]:
    """Read every artifact and every table of the catalogue, and mark what is damaged, so that the next run repairs it.

    Damage is reported even if the store cannot be written, and so nothing marked.
    """
    store, troubles = workspace.store, []
    with store.shared_lock():
        for damage in store.verify(progress):
            is_repaired = store.mark_damaged(damage.folder, damage.files, damage.problem)
            what = str(damage.key) if damage.key is not None else "an artifact whose manifest cannot be read"
            problem = f"{_named(damage.files)}{damage.problem}"
            troubles.append(Trouble(what, str(damage.folder), problem, REPAIRED if is_repaired else REMEDY))
        if store.mended_marker is not None:
            where = str(store.root / MARKER)
            troubles.append(Trouble("the store's marker", where, store.mended_marker, MARKER_REPAIRED))
        troubles += _lists(workspace)
        troubles += _catalogue(workspace)
        troubles += _history(workspace)
    return troubles


def _named(files: Sequence[str]) -> str:
    """Return the names of the first damaged files."""
    more = f" and {len(files) - FILES_NAMED} more" if len(files) > FILES_NAMED else ""
    return f"{', '.join(files[:FILES_NAMED])}{more} " if files else ""


def _lists(workspace: Workspace) -> list[Trouble]:
    """Repair the lists of withdrawn and removed documents, and return what was wrong with them."""
    try:
        troubles = workspace.withdrawn.repair()
    except (StorageError, InputError) as error:
        remedy = "Until it can be read and written, nothing can be computed."
        return [Trouble("the withdrawn documents", str(workspace.store.root), str(error), remedy)]
    return [
        Trouble("the withdrawn documents", str(path), problem, remedy_of_lists(troubles))
        for path, problem in troubles.items()
    ]


def remedy_of_lists(troubles: Mapping[Path, str]) -> str:
    """Return how damaged lists were repaired, and what the user has to do."""
    if len({path.name for path in troubles}) == len(troubles):
        return REPAIRED
    return (
        "Both copies were damaged or lost, and were restored from what can be read of them and of the tombstones: "
        "in doubt a document stays withdrawn. Run `influence forget` again for documents that you withdrew and that "
        "`influence status` does not count, and `influence forget --undo` for documents that may be used."
    )


def _history(workspace: Workspace) -> list[Trouble]:
    """Return what is wrong with the history of runs."""
    folder = run_history.history_folder(workspace.store.root)
    return [
        Trouble("the history of runs", str(path), problem, run_history.remedy(folder, str(folder)))
        for path, problem in run_history.damaged_databases(folder, thoroughly=True).items()
    ]


def _catalogue(workspace: Workspace) -> list[Trouble]:
    """Return what is wrong with the catalogue, and make the next run build it again if that may help."""
    path = workspace.catalogue
    if not path.exists():
        return []
    for _ in range(LOOKS):
        before = published_identity(path)
        troubles = _unreadable(path) or _differing(workspace)
        if published_identity(path) == before:  # else a run has published, and two states were compared
            if troubles:
                _doubt(path, before)
            return troubles + _failed_checks(path)
    busy = "changed again and again while it was compared with the artifacts"
    return [Trouble("the catalogue", str(path), busy, "Wait until no run is at work, and verify again.")]


def _doubt(path: Path, identity: str | None) -> None:
    """Make the next run build the file again, unless a run has just published another."""
    with suppress(OSError, StorageError), loader_lock(path):  # what cannot be written is reported all the same
        if published_identity(path) == identity:
            doubt_publication(path)


def _unreadable(path: Path) -> list[Trouble]:
    try:
        problems = damaged_tables(path)
    except (StorageError, InputError) as error:
        return [Trouble("the catalogue", str(path), str(error), REBUILD)]
    return [Trouble(f"the catalogue's table {t}", str(path), problem, REBUILD) for t, problem in problems.items()]


def _differing(workspace: Workspace) -> list[Trouble]:
    """Return the tables whose rows are not those of the artifacts."""
    by_table: dict[str, list[Difference]] = {}
    try:
        for difference in differences(workspace.catalogue, workspace.store):
            by_table.setdefault(difference.table, []).append(difference)
    except (StorageError, InputError) as error:
        return [Trouble("the catalogue", str(workspace.catalogue), str(error), REBUILD)]
    return [
        Trouble(f"the catalogue's table {table}", str(workspace.catalogue), _described(found), REBUILD)
        for table, found in by_table.items()
    ]


def _described(found: Sequence[Difference]) -> str:
    """Return in a clause how a table differs from the artifacts."""
    named = [each.artifact or "the table as a whole" for each in found[:FILES_NAMED]]
    more = f" and {len(found) - FILES_NAMED} more" if len(found) > FILES_NAMED else ""
    published, stored = sum(each.published for each in found), sum(each.stored for each in found)
    counts = f"{published:,} rows where there should be {stored:,}" if published != stored else "other values in rows"
    return f"has {counts} of {', '.join(named)}{more}"


def _failed_checks(path: Path) -> list[Trouble]:
    """Run the SQL checks, and return those that have violations."""
    try:
        violations = {name: rows for name, rows in run_checks(path).items() if not rows.is_empty()}
    except (StorageError, InputError):
        return []  # it was found to be unreadable before, or an extension's check cannot be run, as the run says
    return [
        Trouble(
            f"the catalogue: {name} does not hold",
            str(path),
            f"{rows.height:,} violations, the first of which is {rows.row(0, named=True)}",
            OF_FAILED_CHECK,
        )
        for name, rows in violations.items()
    ]
