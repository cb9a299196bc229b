"""Keeping a store right: withdrawing documents, looking for damage, removing what is superseded."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from influence_assets.cli.running import run_study
from influence_assets.cli.showing import show_table
from influence_assets.pipeline.forgetting import retract, still_published, tombstones_of, withdraw
from influence_assets.pipeline.garbage import Collected, collect
from influence_assets.pipeline.verification import verify
from influence_assets.pipeline.workspace import Workspace
from influence_assets.study import Study

SHOWN = 20


def forget_documents(
    study: Study, document_ids: Sequence[str], reason: str, console: Console, *, only_list: bool
) -> bool:
    """Withdraw documents, take them out of what is published and from the disk; returns whether all of that worked."""
    added = withdraw(Workspace(study), document_ids, reason)
    console.print(f"Listed as withdrawn: {len(added)}, already listed: {len(document_ids) - len(added)}.")
    if only_list:
        console.print("`influence run` takes them out of every table, `influence gc` from the disk.")
        return True
    complete = run_study(study, console)
    workspace = Workspace(study)
    if still_published(workspace):
        retract(workspace)
        console.print(
            "The run is not complete, so that their shards were taken out of the published tables as they are. "
            "They come back with the next complete run."
        )
    collected = collect(Workspace(study), keep=1)
    _print_collected(collected, console, done=True)
    left = tombstones_of(Workspace(study), document_ids)
    if left.is_empty():
        console.print("No shard had such a document. Should its text come, it will be left out.")
    else:
        console.print("What is left of them:")
        show_table(left, console)
        listed = Workspace(study).listed
        files = sorted({listed[shard].file.url for shard in left["shard_id"] if shard in listed})
        if files:
            said = f"The source files still hold the text, and are read without it: {', '.join(files)}."
            console.print(escape(said), soft_wrap=True)
    return complete


def verify_store(study: Study, console: Console) -> bool:
    """Read everything again, print what is damaged, and return whether all is as it was written."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task, total = bar.add_task("artifacts", total=None), 0

        def progress(done: int, of: int) -> None:
            nonlocal total
            total = of
            bar.update(task, completed=done, total=of)

        troubles = verify(Workspace(study), progress)
    for trouble in troubles:
        said = f"{trouble.what}: {trouble.problem}\n  {trouble.where}\n  {trouble.remedy}"
        console.print(f"[bold red]Damaged[/] {escape(said)}", soft_wrap=True)
    if not troubles:
        console.print(f"[green]All {total:,} artifacts and the catalogue are as they were written.[/]")
    return not troubles


def collect_garbage(study: Study, keep: int, console: Console, *, dry_run: bool) -> None:
    """Remove what is superseded or withdrawn, and print what went."""
    _print_collected(collect(Workspace(study), keep=keep, dry_run=dry_run), console, done=not dry_run)


def _print_collected(collected: Collected, console: Console, *, done: bool) -> None:
    verb = "Removed" if done else "Would remove"
    console.print(
        f"{verb} {len(collected.removed):,} artifacts and the content of {len(collected.reduced):,} more, of which the "
        f"lineage stays: {collected.bytes:,} bytes."
        + (" The catalogue was written anew." if collected.catalogue_rebuilt else "")
    )
    for key in [*collected.removed, *collected.reduced][: 0 if done else SHOWN]:
        console.print(f"  {escape(str(key))}", soft_wrap=True)
    if collected.kept_back:
        console.print(
            f"[yellow]{len(collected.kept_back)} artifacts with withdrawn documents are still published.[/] "
            "Run `influence run`, then this again."
        )
