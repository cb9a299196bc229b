"""Bringing a study up to date, with progress for whoever watches."""

import time
import warnings

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from influence_assets.cli.showing import visible
from influence_assets.errors import InputError, StorageError
from influence_assets.pipeline.graph import STEPS
from influence_assets.pipeline.steps import Partition, Step
from influence_assets.study import Study


def run_study(study: Study, console: Console) -> bool:
    """Compute what is outstanding, print what was done, and return whether all of it worked."""
    import dagster as dg

    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    from influence_assets.assets.bring_up_to_date import Watcher, bring_up_to_date
    from influence_assets.assets.instance import open_instance

    started = time.monotonic()
    with open_instance(study) as instance, _Display(console) as display:
        result = bring_up_to_date(study, instance, Watcher(display.stage, display.progress))
    seconds = time.monotonic() - started
    if result.computed:
        console.print(_done(result.computed, result.stood))
        console.print(f"Computed {len(result.computed)} partitions in {seconds:.1f} s.")
        if not result.failures:
            console.print("Look at them with `influence sql`, `influence ask` or `influence ui`.")
    elif not result.failures:
        console.print(f"[green]Nothing to do[/]: all {sum(result.stood.values())} partitions are up to date.")
    for check in result.checks_failed:
        console.print(f"[bold red]Check failed[/] {escape(check)}")
    for failure in result.failures:
        _print_failure(failure.job, failure.partition, failure.error, console)
    if result.failures:
        left_out = ", ".join(result.left_out)
        console.print(f"What stood before still stands. Not complete: {left_out}.", soft_wrap=True)
    return not result.failures and not result.checks_failed


def rebuild(study: Study, console: Console) -> None:
    """Build the DuckDB file anew, beside the one that stands until it is done."""
    from influence_assets.pipeline.catalogue import rebuild_catalogue
    from influence_assets.pipeline.versions import Versions
    from influence_assets.pipeline.workspace import Workspace

    change = rebuild_catalogue(Versions(Workspace(study)))
    console.print(
        f"Rebuilt from {change.loaded} artifacts in {change.seconds:.1f} s: {sum(change.rows.values()):,} rows."
    )


class _Display:
    """Bars in a terminal; elsewhere a line for each partition."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bars.add_task("", total=None)

    def __enter__(self) -> "_Display":
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def stage(self, job: str, partition: str | None, _outstanding: int) -> None:
        named = escape(f"{job.replace('_', ' ')}{f' [{partition}]' if partition else ''}")
        self._bars.reset(self._task, description=named, total=None)
        if not self._console.is_terminal:
            self._console.print(named)

    def progress(self, step: Step, partition: Partition, done: int, total: int | None) -> None:
        named = escape(f"{step.name}{f' [{partition.key}]' if partition.key else ''}")
        self._bars.update(self._task, description=named, completed=done, total=total)


def _done(computed: list[tuple[Step, Partition]], stood: dict[str, int]) -> Table:
    table = Table("asset", "computed", "stood already", "partitions computed", box=None, pad_edge=False)
    for step in STEPS:
        keys = [partition.key or "" for done, partition in computed if done.name == step.name]
        shown = ", ".join(keys[:4]) + (" …" if len(keys) > 4 else "")
        if keys or step.name in stood:
            table.add_row(step.name, str(len(keys)), str(stood.get(step.name, 0)), escape(shown))
    return table


def _print_failure(job: str, partition: str | None, error: Exception, console: Console) -> None:
    where = f"{job}{f' [{partition}]' if partition else ''}"
    said = visible(str(error)) or type(error).__name__  # it may quote what was read
    console.print(f"[bold red]Failed[/] {escape(where)}: {escape(said)}", soft_wrap=True)
    if not isinstance(error, InputError | StorageError):
        import traceback

        console.print(visible("".join(traceback.format_exception(error))), markup=False, highlight=False)
