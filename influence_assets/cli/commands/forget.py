"""`influence forget`."""

from typing import Annotated

import typer
from rich.markup import escape

from influence_assets.cli.command import HERE, Command, StudyOption
from influence_assets.cli.console import console
from influence_assets.study import Study


def forget(
    document: Annotated[list[str], typer.Option(help="A document_id; give the option once for each.")],
    reason: Annotated[str, typer.Option(help="Why; it stays in the tombstone.")] = "withdrawn",
    *,
    only_list: Annotated[
        bool, typer.Option("--only-list", help="Only list them; the next run and `influence gc` do the rest.")
    ] = False,
    study: StudyOption = HERE,
) -> None:
    """Withdraw documents: out of every table at once, then out of every array and from the disk."""
    from influence_assets.assets import open_workspace
    from influence_assets.upkeep.forget import withdraw

    loaded = Study.load(study)
    added = withdraw(open_workspace(loaded), document, reason)
    console.print(f"Listed as withdrawn: {len(added)}, already listed: {len(document) - len(added)}.")
    if only_list:
        console.print("`influence run` takes them out of every table, `influence gc` from the disk.")
    elif not _take_out(loaded, document):
        raise typer.Exit(1)


def _take_out(study: Study, document_ids: list[str]) -> bool:
    """Take listed documents out of the tables and from the disk; returns whether the run was complete."""
    from influence_assets.assets import open_workspace
    from influence_assets.cli.garbage import print_collected
    from influence_assets.cli.study_runs import run_study
    from influence_assets.upkeep.forget import retract, still_published
    from influence_assets.upkeep.garbage import collect

    complete = run_study(study, console)
    workspace = open_workspace(study)
    if still_published(workspace):
        retract(workspace)
        console.print(
            "The run is not complete, so that their shards were taken out of the published tables as they are. "
            "They come back with the next complete run."
        )
    print_collected(collect(open_workspace(study), keep=1), console, done=True)
    _print_tombstones(study, document_ids)
    return complete


def _print_tombstones(study: Study, document_ids: list[str]) -> None:
    """Print what the store still says about the documents, and which source files still hold them."""
    from influence_assets.assets import open_workspace
    from influence_assets.cli.tables import show_table
    from influence_assets.upkeep.forget import tombstones_of

    tombstones = tombstones_of(open_workspace(study), document_ids)
    if tombstones.is_empty():
        console.print("No shard had such a document. Should its text come, it will be left out.")
        return
    console.print("What is left of them:")
    show_table(tombstones, console)
    listed = open_workspace(study).listed
    files = sorted({listed[shard].file.url for shard in tombstones["shard_id"] if shard in listed})
    if files:
        message = f"The source files still hold the text, and are read without it: {', '.join(files)}."
        console.print(escape(message), soft_wrap=True)


COMMAND = Command(name="forget", function=forget, rank=30)
