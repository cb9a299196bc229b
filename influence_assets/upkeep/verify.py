"""Reads everything that is stored, and reports what differs from what was written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError, StorageError
from influence_assets.storage.catalogue import damaged_tables

FILES_NAMED = 3
REMEDY = "`influence run` computes it again; if it is no longer needed, `influence gc` removes it."
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
        troubles += _lists(workspace)
        troubles += _catalogue(workspace)
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


def _catalogue(workspace: Workspace) -> list[Trouble]:
    if not workspace.catalogue.exists():
        return []
    remedy = "`influence rebuild-catalogue` builds it from the arrays and tables."
    try:
        problems = damaged_tables(workspace.catalogue)
    except (StorageError, InputError) as error:
        return [Trouble("the catalogue", str(workspace.catalogue), str(error), remedy)]
    return [
        Trouble(f"the catalogue's table {t}", str(workspace.catalogue), problem, remedy)
        for t, problem in problems.items()
    ]
