"""Reads everything again and says what is not as it was written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError, StorageError
from influence_assets.storage.catalogue import damaged_tables

FILES_NAMED = 3
REMEDY = "`influence run` computes it again; where nothing asks for it any more, `influence gc` removes it."
MENDED = "It was mended from its other copy."


@dataclass(frozen=True)
class Trouble:
    """Something that is damaged.

    Args:
        what: its name for people.
        where: its place.
        problem: what is wrong with it.
        remedy: what mends it.
    """

    what: str
    where: str
    problem: str
    remedy: str


def verify(workspace: Workspace, progress: Callable[[int, int], object]) -> list[Trouble]:
    """Read every artifact and every table of the catalogue, and mark what is damaged, so that the next run mends it.

    What is found is told in any case; the mark needs a store that can be written.
    """
    store, troubles = workspace.store, []
    with store.shared_lock():
        for damage in store.verify(progress):
            is_mended = store.mark_damaged(damage.folder, damage.files, damage.problem)
            what = str(damage.key) if damage.key is not None else "an artifact whose manifest cannot be read"
            problem = f"{_named(damage.files)}{damage.problem}"
            troubles.append(Trouble(what, str(damage.folder), problem, MENDED if is_mended else REMEDY))
        troubles += _lists(workspace)
        troubles += _catalogue(workspace)
    return troubles


def _named(files: Sequence[str]) -> str:
    """The first of the damaged files."""
    more = f" and {len(files) - FILES_NAMED} more" if len(files) > FILES_NAMED else ""
    return f"{', '.join(files[:FILES_NAMED])}{more} " if files else ""


def _lists(workspace: Workspace) -> list[Trouble]:
    """What is wrong with the files that say which documents are withdrawn or gone, now that it is mended."""
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
    """Return what became of damaged lists, and what a person has to do."""
    if len({path.name for path in troubles}) == len(troubles):
        return MENDED
    return (
        "Neither copy was whole: it was put together from what can be read of both and from the tombstones, and in "
        "doubt a document stays out. List again with `influence forget` what you withdrew and `influence status` does "
        "not count; take off with `influence forget --undo` what may be used."
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
