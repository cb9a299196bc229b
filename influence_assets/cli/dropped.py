"""What commands print of published documents and questions that leave the tables."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape

from influence_assets.cli.figures import counted
from influence_assets.cli.vanished import shard_names
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError, StorageError
from influence_assets.storage.catalogue import query

_DOCUMENTS = "select shard_id, count(*) from documents group by shard_id"
_QUESTIONS = "select query_set_id, count(*) from queries group by query_set_id"


@dataclass(frozen=True)
class Published:
    """How many documents and questions are in the tables.

    Args:
        documents: by shard.
        questions: by query set.
    """

    documents: Mapping[str, int]
    questions: Mapping[str, int]


def published(workspace: Workspace) -> Published | None:
    """Return what is in the tables now; None if there are none that can be read."""
    if not workspace.catalogue.exists():
        return None
    try:
        counts = [dict(query(workspace.catalogue, sql).rows()) for sql in (_DOCUMENTS, _QUESTIONS)]
    except (StorageError, InputError):
        return None
    return Published(*counts)


def print_dropped(before: Published | None, after: Published | None, console: Console) -> None:
    """Print what a run has dropped from the tables, whatever the reason."""
    if before is None or after is None:
        return
    for noun, unit, earlier, now in (
        ("shard", "document", before.documents, after.documents),
        ("query set", "question", before.questions, after.questions),
    ):
        gone = {name: count for name, count in earlier.items() if name not in now}
        fewer = {name: count - now[name] for name, count in earlier.items() if name in now and now[name] < count}
        parts = []
        if gone:
            parts.append(f"{counted(len(gone), noun)} with {counted(sum(gone.values()), unit)} ({shard_names(gone)})")
        if fewer:
            parts.append(f"{counted(sum(fewer.values()), unit)} of {shard_names(fewer)}")
        if parts:
            message = escape(" and ".join(parts))
            console.print(f"[yellow]Dropped from the tables[/]: {message}.", soft_wrap=True, highlight=False)


def print_vanished_questions(workspace: Workspace, now: Published | None, console: Console) -> None:
    """Print which published query sets have no file any more, so that the next run drops them."""
    gone = {} if now is None else {n: count for n, count in now.questions.items() if n not in workspace.query_sets}
    if gone:
        console.print(
            f"[yellow]Gone from the queries[/]: {counted(len(gone), 'query set')} with "
            f"{counted(sum(gone.values()), 'question')}: {escape(shard_names(gone))}. Their rows leave the tables with "
            "the next run.",
            soft_wrap=True,
        )
