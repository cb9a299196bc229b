"""`influence forget`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.markup import escape

from influence_assets.cli.command import HERE, Command, StudyOption
from influence_assets.cli.console import console
from influence_assets.cli.figures import counted
from influence_assets.errors import InputError
from influence_assets.escaping import visible
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.upkeep.holders import Holder

REASON_CHARACTERS = 500
"""The length at which reasons are cut, because databases quote whole statements in their errors."""

T = TypeVar("T")


def forget(
    document: Annotated[list[str] | None, typer.Option(help="A document_id; give the option once for each.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it stays in the tombstone.")] = "withdrawn",
    *,
    only_list: Annotated[
        bool, typer.Option("--only-list", help="Only list them; the next run and `influence gc` do the rest.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take them off the list again; the next run uses their texts.")
    ] = False,
    restore: Annotated[
        bool,
        typer.Option("--restore", help="Write the damaged list anew: what is known of it, and these documents."),
    ] = False,
    study: StudyOption = HERE,
) -> None:
    """Withdraw documents: out of every table at once, then out of every array and from the disk."""
    from influence_assets.assets import open_without_extensions
    from influence_assets.upkeep.forget import withdraw
    from influence_assets.upkeep.holders import holders

    if not document and not restore:
        raise InputError("forget", "no document is named", "Name one with `--document ID`.")
    if only_list + undo + restore > 1:
        raise InputError("forget", "--only-list, --undo and --restore exclude one another", "Give one of them.")
    document = document or []
    loaded = Study.load(study, needs_extensions=False)
    if restore:
        _restore(loaded, document, reason)
        return
    if undo:
        _reinstate(loaded, document)
        return
    holding = _attempted("find what else holds them", lambda: holders(open_without_extensions(loaded), document)) or []
    added = withdraw(open_without_extensions(loaded), document, reason)
    console.print(f"Listed as withdrawn: {len(added)}, already listed: {len(document) - len(added)}.")
    if only_list:
        console.print("`influence run` takes them out of every table, `influence gc` from the disk.")
        _print_holders(loaded, holding)
        return
    is_done = _take_out(loaded, document, study)
    _print_holders(loaded, holding)
    if not is_done:
        raise typer.Exit(1)


def _reinstate(study: Study, document_ids: list[str]) -> None:
    """Remove documents from the store's list, and print which of them corpus.withdrawn lists too."""
    from influence_assets.assets import open_without_extensions
    from influence_assets.upkeep.forget import reinstate

    workspace = open_without_extensions(study)
    removed = reinstate(workspace, document_ids)
    console.print(
        f"Taken off the list: {len(removed)}, not on it: {len(document_ids) - len(removed)}. "
        "`influence run` uses their texts where the corpus has them."
    )
    still = [document_id for document_id in document_ids if document_id in workspace.withdrawn.entries]
    if still:
        console.print(f"corpus.withdrawn still names {', '.join(map(escape, still))}.", soft_wrap=True)


def _restore(study: Study, document_ids: list[str], reason: str) -> None:
    """Write the store's list anew, and print it, so that a person sees which documents are missing."""
    from influence_assets.assets import open_without_extensions
    from influence_assets.upkeep.forget import restore

    listed = restore(open_without_extensions(study), document_ids, reason)
    console.print(f"The list was written anew and names {counted(len(listed), 'document')}:")
    for one in listed:
        console.print(f"  {one.document_id}  {escape(visible(one.reason))}", soft_wrap=True)
    console.print("`influence run` takes them out of every table, `influence gc` from the disk.")


def _take_out(study: Study, document_ids: list[str], path: Path) -> bool:
    """Remove listed documents from the tables and the disk; return whether everything succeeded.

    They leave the tables first, because the later steps can fail for unrelated reasons, such as a broken source file, a
    disk that does not respond, or a method that no longer exists.

    Args:
        study: the study, which may name extensions that do not exist.
        document_ids: the documents.
        path: the study's file, for the steps that need the extensions too.
    """
    from influence_assets.assets import open_without_extensions
    from influence_assets.cli.study_runs import run_study
    from influence_assets.upkeep.forget import retract

    taken_out = _attempted("take them out of the tables", lambda: retract(open_without_extensions(study), document_ids))
    complete = _attempted("bring the study up to date without them", lambda: run_study(Study.load(path), console))
    if not complete:
        left = _attempted("take them out of the tables", lambda: retract(open_without_extensions(study)))
        if taken_out or left:
            console.print(
                "The run is not complete, so that their shards were taken out of the published tables as they are. "
                "They come back with the next complete run."
            )
        if taken_out is None and left is None:
            console.print("[bold red]They may still be published.[/]")
    collected = _attempted("remove them from the disk", lambda: _collect(Study.load(path)))
    _print_tombstones(study, document_ids, is_complete=bool(complete))
    return bool(complete and collected)


def _attempted(purpose: str, attempt: Callable[[], T]) -> T | None:
    """Return an attempt's result or, if it fails, print why and return None, so that later steps are tried too."""
    try:
        return attempt()
    except Exception as error:  # noqa: BLE001  # a damaged database of Dagster, for example, can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        message = f"to {purpose}: {reason[:REASON_CHARACTERS]}"
        console.print(f"[bold red]Failed[/] {escape(visible(message))}", soft_wrap=True)
        return None


def _collect(study: Study) -> bool:
    """Remove withdrawn and superseded content, and that of vanished files unless `influence gc` would ask first."""
    from influence_assets.assets import open_workspace
    from influence_assets.cli.garbage import print_collected
    from influence_assets.upkeep.garbage import collect, vanished_documents

    workspace = open_workspace(study)
    vanished = vanished_documents(workspace)
    collected = collect(workspace, keep=1, spare_vanished=vanished.is_large)
    print_collected(collected, console, done=True)
    if vanished.is_large:
        console.print(
            f"What was computed of {len(vanished.shards):,} shards whose files are gone from the corpus stays, because "
            "they are many and a disk may be missing. `influence gc` removes it."
        )
    return collected.not_rebuilt is None


def _print_tombstones(study: Study, document_ids: list[str], *, is_complete: bool) -> None:
    """Print the documents' tombstones, and which source files still contain the documents.

    Args:
        study: the study.
        document_ids: the documents.
        is_complete: whether the run looked for them in every shard; otherwise a missing tombstone says nothing.
    """
    from influence_assets.assets import open_without_extensions
    from influence_assets.cli.tables import show_table
    from influence_assets.upkeep.forget import tombstones_of

    workspace = open_without_extensions(study)
    tombstones = tombstones_of(workspace, document_ids)
    without = [document_id for document_id in document_ids if document_id not in set(tombstones["document_id"])]
    if without and not is_complete:
        console.print(
            f"Without a tombstone: {', '.join(map(escape, without))}. Whether a source file has the text is not known "
            "until a run is complete; the text is left out in any case.",
            soft_wrap=True,
        )
    elif tombstones.is_empty():
        console.print("No shard had such a document. Should its text come, it will be left out.")
    elif without:
        console.print(
            f"No shard had {', '.join(map(escape, without))}. Should such a text come, it will be left out.",
            soft_wrap=True,
        )
    if tombstones.is_empty():
        return
    console.print("What is left of them:")
    show_table(tombstones, console)
    try:
        listed = workspace.listed
    except InputError:  # the failure to list the corpus was printed before
        return
    files = sorted({listed[shard].file.url for shard in tombstones["shard_id"] if shard in listed})
    if files:
        message = f"The source files still hold the text, and are read without it: {', '.join(files)}."
        console.print(escape(message), soft_wrap=True)


def _print_holders(study: Study, holding: "Sequence[Holder]") -> None:
    """Print what was made with the documents and stays, and how to be rid of it.

    Args:
        study: the study.
        holding: what held something of them before they were taken out.
    """
    from influence_assets.assets import open_without_extensions

    store = open_without_extensions(study).store
    left = [holder for holder in holding if store.has_content(holder.key)]
    models = sum(holder.was_trained for holder in left)
    numbers = sorted({holder.generation_id for holder in left if holder.generation_id is not None})
    if models:
        console.print(
            f"[yellow]Still trained on them[/]: {counted(models, 'model')} of this study. To train another one "
            "without them, change `model.train` (its seed is enough) and run; then `influence gc --keep 0` removes "
            "this one.",
            soft_wrap=True,
            highlight=False,
        )
    elif study.model.train is None:
        console.print(
            "Whether the model of `model.path` has seen them is not known here. What it has learnt from them stays.",
            highlight=False,
        )
    if numbers:
        console.print(
            f"[yellow]Still fitted on them[/]: the curvature of {'generation' if len(numbers) == 1 else 'generations'} "
            f"{', '.join(map(str, numbers))}, which holds sums over all documents and none of their text. To fit "
            "another one without them: `influence run --new-generation`, then `influence gc --keep 0` once no table "
            "compares with it any more.",
            soft_wrap=True,
            highlight=False,
        )


COMMAND = Command(name="forget", function=forget, rank=30, needs_extensions=False)
