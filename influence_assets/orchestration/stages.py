"""The work of one run, divided into stages: each op of the run does the work up to the end of its own stage."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import dagster as dg

from influence_assets.assets import asset_graph
from influence_assets.engine.bring_up import Failure, Finished, PassFailed, StageBegun, bring_up_to_date
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.failed_checks import begin_list, repeat_outstanding
from influence_assets.engine.fingerprint import fingerprint
from influence_assets.engine.partitions import Partition
from influence_assets.engine.plan import plan
from influence_assets.errors import StorageError
from influence_assets.orchestration import openlineage
from influence_assets.orchestration.private_api import keep
from influence_assets.orchestration.run_events import Report, Reporter, taken_back
from influence_assets.orchestration.runs import handled_key, hold_run
from influence_assets.orchestration.session import Session
from influence_assets.urls import without_credentials

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient

NEW_GENERATION = "new_generation"
"""The name of the stages that fill a generation of curvature that readers do not see yet."""

Position = tuple[int, int]
"""The position of a stage in a run: whether it belongs to the new generation, and its asset's index in the graph."""

MEMBERS: Position = (2, 0)
"""The position of the one stage of an ensemble's further members, which come after both generations."""


def position(asset: AssetDefinition, *, is_new_generation: bool) -> Position:
    """Return the position of an asset's stage in a run."""
    return is_new_generation, [other.name for other in asset_graph()].index(asset.name)


def end() -> Position:
    """Return the position after every stage."""
    return MEMBERS[0] + 1, 0


class Stages:
    """The work of `bring_up_to_date`, which pauses at the end of each stage.

    The work returns to earlier stages when something that it reads turns out to be damaged. What is missing then is
    computed within the current stage.

    Args:
        session: the state that the ops of the run share; its `result` is filled on the way.
        context: the context of the op that begins the work.
        new_generation: whether to fit another generation of curvature.

    Raises:
        InputError: the corpus, the queries or the model cannot be listed.
    """

    def __init__(self, session: Session, context: dg.OpExecutionContext, *, new_generation: bool) -> None:
        published, result = session.published, session.result
        begin_list(published.workspace)
        hold_run(session.study, context.run_id)  # in the store, which exists from here on
        self._session = session
        self._handled = fingerprint(published.workspace)
        # While a newer generation is being filled, report that one, because the run ends with it.
        self._seen = session.versions if published.has_newer_generation else published
        if self._seen is session.versions or not result.states:
            result.states = list(plan(self._seen))
        self._before = result.states
        self._reporter = Reporter(session.study, context.instance)
        self._collector: OpenLineageClient | None = openlineage.connect(session.study)
        self._watcher = session.watcher(context)
        self._events = bring_up_to_date(published, self, result, run_id=context.run_id, new_generation=new_generation)
        self._reached: Position = (False, -1)
        self._is_finished = False
        self._computed: Counter[tuple[Position, str]] = Counter()  # by the asset's stage and the op that computed it
        self._failed: Counter[Position] = Counter()

    @property
    def has_reached_new_generation(self) -> bool:
        """Whether stages of the new generation are due."""
        return not self._is_finished and self._is_new_generation

    def begins(self, asset: AssetDefinition, partition: Partition, outstanding: int) -> None:
        """Tell the current op's watcher that a partition begins."""
        self._watcher.begins(asset, partition, outstanding)

    def progress(self, asset: AssetDefinition, partition: Partition, done: int, total: int | None) -> None:
        """Tell the current op's watcher how far a partition is."""
        self._watcher.progress(asset, partition, done, total)

    def turns_to(self, member: int) -> None:
        """Tell the current op's watcher which member of the ensemble comes next."""
        self._watcher.turns_to(member)

    def news(self) -> Iterator[Report]:
        """Report what changed since the last run, before anything is computed."""
        yield from self._reporter.news(self._seen, self._before)

    def advance(self, context: dg.OpExecutionContext, to: Position) -> Iterator[Report]:
        """Do the work up to the end of a stage, and report each partition as soon as it is computed."""
        self._watcher = self._session.watcher(context)
        repaired = len(self._session.result.repaired)
        while not self._is_finished and self._reached <= to:
            event = next(self._events, None)
            if event is None:
                self._is_finished = True
            elif isinstance(event, StageBegun):
                is_new = event.choice == "newest"
                self._reached = MEMBERS if event.member else position(event.asset, is_new_generation=is_new)
            elif isinstance(event, Failure):
                self._failed[self._position(event.asset, event.member)] += 1
                context.log.error(f"{_name(event)} failed: {event.error}")
            elif isinstance(event, PassFailed):
                context.log.warning(str(event))
            else:
                yield from self._finished(context, event)
            for folder in self._session.result.repaired[repaired:]:
                repaired += 1
                context.log.warning(f"{folder} is damaged. It and what needs it are computed again in this stage.")
        yield from self._reporter.rolled_up_checks()

    def outcome(self, context: dg.OpExecutionContext, stage: Position) -> dict[str, str | int]:
        """Return what was done for a stage's asset, in words and figures.

        It becomes metadata of the op's output, because a line in the run's log costs as much as a small computation.
        """
        op, failed = str(context.op_handle), self._failed[stage]
        computed = self._computed[stage, op]
        by_others = {other: count for (at, other), count in self._computed.items() if at == stage and other != op}
        of_others = {at: count for (at, other), count in self._computed.items() if at != stage and other == op}
        waiting = self._waiting(stage) - failed if self._session.result.failures else 0
        sentences = [f"Computed {_partitions(computed)}."] if computed else []
        sentences += [f"{_partitions(count)}: by the stage {other}, together." for other, count in by_others.items()]
        if of_others:
            listed = ", ".join(f"{_asset_name(at)} {count:,}" for at, count in of_others.items())
            sentences.append(f"Beside it: {listed}.")
        if failed:
            sentences.append(f"{_partitions(failed)} failed.")
        if waiting > 0:
            sentences.append(f"{_partitions(waiting)} left out: something that they need failed.")
        figures = {"computed": computed, "computed_by_other_stages": sum(by_others.values()), "failed": failed}
        by_member = self._by_member() if stage == MEMBERS else {}
        return (
            {"outcome": " ".join(sentences) or "Nothing was due."} | {n: c for n, c in figures.items() if c} | by_member
        )

    def conclude(self, context: dg.OpExecutionContext) -> Iterator[Report]:
        """Do the remaining work, and repeat the checks that are outstanding.

        Earlier versions that are in use again are reported, and which files were handled is recorded.
        """
        yield from self.advance(context, end())
        result = self._session.result
        versions = result.versions or self._session.published
        yield from self._reporter.unreported(versions, taken_back(self._before, result))
        # After a failure, its cause, such as a full disk, is what matters; the next run repeats the checks.
        with suppress(*([StorageError] if result.failures else [])):
            self._session.recheck = repeat_outstanding(versions)
        yield from self._reporter.repeated(self._session.recheck)
        keep(context.instance, handled_key(self._session.study), self._handled)

    def close(self) -> None:
        """Stop the work, and release the store's locks."""
        self._events.close()

    @property
    def _is_new_generation(self) -> bool:
        return self._reached[0] == 1

    def _position(self, asset: AssetDefinition, member: int) -> Position:
        """Return the stage of a member's asset, in the generation that is being filled."""
        return MEMBERS if member else position(asset, is_new_generation=self._is_new_generation)

    def _by_member(self) -> dict[str, str]:
        """Return what was computed of each further member of the ensemble, by asset."""
        return {
            f"member_{number}": ", ".join(
                f"{name} {count:,}" for name, count in Counter(a.name for a, _ in places).items()
            )
            for number, places in self._session.result.of_members.items()
        }

    def _finished(self, context: dg.OpExecutionContext, event: Finished) -> Iterator[Report]:
        if event.outcome.computed:
            self._computed[self._position(event.asset, event.versions.number), str(context.op_handle)] += 1
        yield from self._reporter.finished(event)
        self._tell_collector(context, event)

    def _tell_collector(self, context: dg.OpExecutionContext, event: Finished) -> None:
        """Send events to the lineage collector, if there is one; after an error, send no more in this run."""
        if self._collector is None or not event.outcome.computed:
            return
        try:
            for lineage_event in openlineage.events(self._session.study, event.outcome.artifact.manifest):
                self._collector.emit(lineage_event)
        except Exception as error:  # noqa: BLE001  # a collector's errors must not affect the run
            url = self._session.study.lineage.openlineage_url
            context.log.warning(without_credentials(f"{url} does not take OpenLineage events: {error}"))
            self._collector = None

    def _waiting(self, stage: Position) -> int:
        in_generation, place = stage
        if stage == MEMBERS:
            members = self._session.published.members
            places = [(each, asset) for each in members for asset in each.workspace.graph if each.of(asset) is each]
        else:
            versions = self._session.versions if in_generation else self._session.published
            places = [(versions, versions.workspace.graph.assets[place])]
        return sum(not each.stands(asset, partition) for each, asset in places for partition in each.partitions(asset))


def _name(event: Failure) -> str:
    name = f"{event.asset.name}[{event.partition.key}]" if event.partition.key else event.asset.name
    return f"{name} of member {event.member}" if event.member else name


def _asset_name(stage: Position) -> str:
    return "members" if stage == MEMBERS else asset_graph().assets[stage[1]].name


def _partitions(count: int) -> str:
    return f"{count:,} partition" + ("" if count == 1 else "s")
