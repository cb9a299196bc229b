"""Runs that bring a study up to date and print their progress and results. This module imports Dagster."""

import time
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from influence_assets.assets import asset_graph
from influence_assets.cli.drift import drift_proposal
from influence_assets.cli.dropped import print_dropped, published
from influence_assets.cli.failed_checks import print_failed_checks
from influence_assets.cli.figures import counted
from influence_assets.cli.notes import print_notes
from influence_assets.cli.unread import print_unread
from influence_assets.cli.vanished import print_vanished
from influence_assets.engine.bring_up import Failure, Result
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.partitions import Partition
from influence_assets.errors import InputError, StorageError
from influence_assets.escaping import visible
from influence_assets.study import Study
from influence_assets.upkeep.run_history import refuse_damaged_history
from influence_assets.upkeep.verify import MARKER_REPAIRED, remedy_of_lists

PARTITIONS_SHOWN = 4
"""How many computed partitions of each asset are named."""


def run_study(
    study: Study,
    console: Console,
    *,
    new_generation: bool = False,
    requested: Mapping[str, Collection[Partition]] | None = None,
) -> bool:
    """Compute what is outstanding and print what was done; return whether all is complete and every check passed.

    Args:
        study: the study.
        console: where to print.
        new_generation: whether to fit another generation of curvature.
        requested: the partitions that are wanted of assets that are computed on request only, by the asset's name.
    """
    import dagster as dg

    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    from influence_assets.orchestration.bring_up import execute
    from influence_assets.orchestration.instance import dagster_home, damage_named, open_instance
    from influence_assets.orchestration.session import Session

    started = time.monotonic()
    refuse_damaged_history(dagster_home(study))
    with damage_named(dagster_home(study)), open_instance(study) as instance, _Display(console) as display:
        session = Session(study, display, requested or {})
        mended_marker = session.published.workspace.store.mended_marker
        troubles = session.published.workspace.withdrawn.repair()
        vanished = session.published.workspace.vanished
        before = published(session.published.workspace)
        execute(study, instance, session, new_generation=new_generation)
    result = session.result
    if mended_marker is not None:
        console.print(f"[yellow]The store's marker[/] {escape(visible(mended_marker))}. {MARKER_REPAIRED}")
    _print_troubles(troubles, console)
    for sentence in session.recheck.mended:
        console.print(f"[yellow]{escape(sentence)}[/]", soft_wrap=True)
    _print_result(
        result, time.monotonic() - started, console, may_rest=not (session.recheck.failed or session.recheck.mended)
    )
    if result.versions is not None:
        print_notes(result.versions, result.computed, console)
        _print_cautions(result, console)
    if vanished:
        print_vanished(vanished, console)
    if result.computed or session.recheck.mended:
        print_dropped(before, published(session.published.workspace), console)
    print_unread(study, console)
    print_failed_checks(session.recheck.failed, console)
    if result.drift is not None:
        console.print(drift_proposal(result.drift), soft_wrap=True)
    for failure in result.failures:
        _print_failure(failure, console)
    if result.left_out:
        left_out = escape(", ".join(result.left_out))
        console.print(f"Earlier results are unchanged. Not complete: {left_out}.", soft_wrap=True)
    return not result.failures and not result.left_out and not session.recheck.failed


def _print_members(result: Result, console: Console) -> None:
    """Print what was computed of the further members of the ensemble."""
    for number, states in result.member_states.items():
        computed = len(result.of_members.get(number, ()))
        standing = sum(len(state.of("standing")) for state in states)
        console.print(
            f"Member {number} of the ensemble: {counted(computed, 'partition')} computed, "
            f"{max(0, standing - computed):,} up to date before.",
            highlight=False,
        )


def _print_result(result: Result, seconds: float, console: Console, *, may_rest: bool) -> None:
    """Print what was recomputed after damage, and what was computed.

    Args:
        result: what the run did.
        seconds: how long it took.
        console: where to print.
        may_rest: whether nothing else is outstanding.
    """
    for failed_pass in result.failed_passes:
        console.print(f"[yellow]Note:[/] {escape(visible(str(failed_pass)))}", soft_wrap=True, highlight=False)
    for folder in result.repaired:
        console.print(f"[yellow]Was damaged[/] and is computed again: {escape(folder)}", soft_wrap=True)
    if result.computed:
        console.print(_computed(result))
        console.print(f"Computed {counted(len(result.computed), 'partition')} in {seconds:.1f} s.")
        _print_members(result, console)
        if not result.left_out:
            console.print("Look at them with `influence strongest`, `influence sql` or `influence ui`.")
    elif not result.left_out and may_rest:
        every = [*result.states, *(state for states in result.member_states.values() for state in states)]
        standing = sum(len(state.of("standing")) for state in every)
        console.print(f"[green]Nothing to do[/]: all {standing} partitions are up to date.")


def _print_cautions(result: Result, console: Console) -> None:
    """Print what to know of the scores that this run has published."""
    from influence_assets.api.cautions import all_cautions

    if result.versions is not None and any(asset.name == "influence_catalogue" for asset, _ in result.computed):
        for caution in all_cautions(result.versions.workspace.catalogue):
            console.print(f"[yellow]Caution:[/] {escape(visible(caution))}", soft_wrap=True, highlight=False)


def _print_troubles(troubles: Mapping[Path, str], console: Console) -> None:
    """Print what was wrong with the lists of withdrawn and vanished documents."""
    for path, problem in troubles.items():
        message = f"{path} {problem}. {remedy_of_lists(troubles)}"
        console.print(f"[yellow]Withdrawn documents:[/] {escape(message)}", soft_wrap=True)


class _Display:
    """The display of a run's progress: a bar in a terminal, otherwise a line for each partition."""

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
        self._member = 0

    def __enter__(self) -> "_Display":
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def turns_to(self, member: int) -> None:
        self._member = member

    def begins(self, asset: AssetDefinition, partition: Partition, outstanding: int) -> None:
        label = escape(_label(asset, partition, self._member))
        self._bars.reset(self._task, description=f"{label} · {outstanding} to go", total=None)
        if not self._console.is_terminal:
            self._console.print(label)

    def progress(self, asset: AssetDefinition, partition: Partition, done: int, total: int | None) -> None:
        label = escape(_label(asset, partition, self._member))
        self._bars.update(self._task, description=label, completed=done, total=total)


def _label(asset: AssetDefinition, partition: Partition, member: int) -> str:
    label = f"{asset.name} [{partition.key}]" if partition.key else asset.name
    return f"{label} of member {member}" if member else label


def _computed(result: Result) -> Table:
    """Return how many partitions of each asset were computed or up to date already, and name the first computed."""
    table = Table("asset", "computed", "up to date", "partitions computed", box=None, pad_edge=False)
    for asset in asset_graph():
        # With an ensemble, the catalogue is loaded twice: before its further members and after.
        places = dict.fromkeys(partition for computed, partition in result.computed if computed.name == asset.name)
        keys = [partition.key or "" for partition in places]
        shown = ", ".join(keys[:PARTITIONS_SHOWN]) + (" …" if len(keys) > PARTITIONS_SHOWN else "")
        if keys or result.were_up_to_date(asset):
            table.add_row(asset.name, str(len(keys)), str(result.were_up_to_date(asset)), escape(shown))
    return table


def _print_failure(failure: Failure, console: Console) -> None:
    """Print which partition failed and why, with a traceback unless it is an error that the user can correct."""
    error = failure.error
    label = _label(failure.asset, failure.partition, failure.member)
    message = visible(str(error)) or type(error).__name__  # it may quote what was read
    console.print(f"[bold red]Failed[/] {escape(label)}: {escape(message)}", soft_wrap=True)
    if not isinstance(error, InputError | StorageError):
        import traceback

        console.print(visible("".join(traceback.format_exception(error))), markup=False, highlight=False)
