"""Brings a study up to date: computes everything that is outstanding, stage by stage."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Protocol

from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.executor import Computed, Task, compute_with, executor_of
from influence_assets.engine.generations import is_generation_requested, request_generation
from influence_assets.engine.materialise import Outcome, reduce_spent
from influence_assets.engine.partitions import Partition
from influence_assets.engine.plan import AssetState, plan, state_rows
from influence_assets.engine.shared_pass import members_of_one_pass
from influence_assets.engine.versions import Choice, Versions
from influence_assets.errors import DamagedError, StorageError
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.storage.catalogue import record_states

ATTEMPTS = 10
"""How often a run starts over because it found damage while reading; each time it is a different artifact."""

Place = tuple[AssetDefinition, Partition]


class Watcher(Protocol):
    """Follows a run while it goes on."""

    def begins(self, asset: AssetDefinition, partition: Partition, outstanding: int) -> None:
        """Report that a partition is about to be computed, and how many partitions of its asset are outstanding."""

    def progress(self, asset: AssetDefinition, partition: Partition, done: int, total: int | None) -> None:
        """Report how much of a partition is done."""

    def turns_to(self, member: int) -> None:
        """Report that what begins from now on is of this member of the ensemble; called only if there are several."""


@dataclass(frozen=True)
class Finished:
    """A partition that is now up to date.

    Args:
        asset: the partition's asset.
        partition: the partition.
        outcome: its artifact, and whether it was computed now.
        versions: the versions that it belongs to.
    """

    asset: AssetDefinition
    partition: Partition
    outcome: Outcome
    versions: Versions


@dataclass(frozen=True)
class Failure:
    """A partition that could not be computed.

    Args:
        asset: the partition's asset.
        partition: the partition.
        error: the exception.
        member: the member of the ensemble that it is of; 0 is the study's own model.
    """

    asset: AssetDefinition
    partition: Partition
    error: Exception
    member: int = 0


@dataclass(frozen=True)
class StageBegun:
    """The run begins with an asset; after damage it begins with earlier assets again.

    Args:
        asset: the asset.
        choice: the generation that is worked on: the published one or the newest.
        member: the member of the ensemble that is worked on; 0 is the study's own model.
    """

    asset: AssetDefinition
    choice: Choice
    member: int = 0


@dataclass(frozen=True)
class PassFailed:
    """The failure to compute several partitions together, in one pass or at once; each is tried by itself instead.

    Args:
        places: the partitions.
        error: the exception.
    """

    places: tuple[Place, ...]
    error: Exception

    def __str__(self) -> str:
        """Say what failed and what happens instead."""
        first, reason = self.places[0], str(self.error) or type(self.error).__name__
        if first[0].at_once is not None:
            return (
                f"Computing {len(self.places)} partitions of {first[0].name} at once failed ({reason}). Each is "
                "computed by itself, which takes longer."
            )
        names = ", ".join(asset.name for asset, _ in self.places)
        return (
            f"One pass over {first[1].shard} for {names} failed ({reason}). Each is computed in a pass of its "
            "own, which takes longer and gives the same results."
        )


Event = Finished | Failure | PassFailed | StageBegun


@dataclass
class Result:
    """What a run did.

    Args:
        computed: partitions that were computed, in order; not those of an ensemble's further members.
        of_members: partitions of an ensemble's further members that were computed, in order, by the member's number.
        failures: partitions that failed; what depends on them is unchanged.
        failed_passes: passes for several partitions that failed; the partitions were then tried one by one.
        repaired: artifacts that were found damaged during the run and were computed again.
        states: the state of every partition afterwards.
        member_states: the state of every partition of an ensemble's further members, by the member's number.
        versions: the versions that these states refer to.
        drift: the summary of the generation's drift if it exceeds the study's threshold.
    """

    computed: list[Place] = field(default_factory=list)
    of_members: dict[int, list[Place]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    failed_passes: list[PassFailed] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    states: list[AssetState] = field(default_factory=list)
    member_states: dict[int, list[AssetState]] = field(default_factory=dict)
    versions: Versions | None = None
    drift: dict[str, object] | None = None

    @property
    def left_out(self) -> list[str]:
        """The names of the assets that are not complete."""
        of_members = [
            f"{state.asset.name} of member {number}"
            for number, states in self.member_states.items()
            for state in states
            if state.outstanding
        ]
        return [*(state.asset.name for state in self.states if state.outstanding), *of_members]

    def were_up_to_date(self, asset: AssetDefinition) -> int:
        """Return how many partitions of an asset were up to date before the run."""
        standing = sum(len(state.of("standing")) for state in self.states if state.asset.name == asset.name)
        computed = {partition for done, partition in self.computed if done.name == asset.name}
        return max(0, standing - len(computed))


def bring_up_to_date(
    versions: Versions, watcher: Watcher, result: Result, *, run_id: str | None = None, new_generation: bool = False
) -> Generator[Event]:
    """Compute everything that the study needs and the store lacks, and report each partition when it ends.

    The generation that readers see comes first, so that new shards reach them soon. A newer generation comes second:
    one that an earlier run began, or one that this run begins, on request or because the statistics drifted and the
    study says `automatic`. If a partition fails, only what depends on it is skipped. Further members of an ensemble
    come last, once the study's own model is complete.

    Args:
        versions: the versions of the published generation, from a workspace that nothing has been read from yet.
        watcher: receives beginnings and progress.
        result: filled during the run.
        run_id: the run's id, for the manifests.
        new_generation: whether to fit another generation of curvature. The request is stored: if the run dies, the next
            one goes on with it.

    Raises:
        InputError: the corpus or the queries cannot be listed.
    """
    store = versions.workspace.store
    store.remove_abandoned_drafts()
    with store.shared_lock():
        versions.workspace.withdrawn.repair()
        if new_generation:
            request_generation(versions.workspace)
        run = _Run(versions, watcher, result, run_id)
        yield from run.complete(versions)
        if run.versions.has_newer_generation:
            yield from run.complete(run.look("newest"))
        if is_generation_due(run.versions) and not result.failures:
            yield from run.begin_generation()
            yield from run.complete(run.look("newest"))
        if not result.failures:
            yield from run.complete_members()
        result.drift = drift(run.versions)
        result.versions = run.versions
        result.states = list(plan(run.versions))
        result.member_states = {member.number: list(plan(member)) for member in run.versions.members}
        if result.left_out:
            with suppress(StorageError):  # its cause, such as a full disk, is already among the failures
                record_states(run.versions.workspace.catalogue, state_rows(result.states))


class _Run:
    def __init__(self, versions: Versions, watcher: Watcher, result: Result, run_id: str | None) -> None:
        self._watcher = watcher
        self._result = result
        self._run_id = run_id
        self._executor = executor_of(versions.workspace.study)
        self.versions = versions

    def look(self, choice: Choice) -> Versions:
        """Return the versions of a fresh look at the study and its store."""
        return Versions(self.versions.workspace.again(), choice)

    def complete(self, versions: Versions) -> Iterator[Event]:
        """Compute what is outstanding; start over whenever an artifact that is read is found damaged."""
        of_others = [failure for failure in self._result.failures if failure.member != versions.number]
        for _ in range(ATTEMPTS):
            self.versions = versions
            self._result.failures[:] = of_others
            try:
                for asset in versions.workspace.graph:
                    yield StageBegun(asset, versions.choice, versions.number)
                    yield from self._complete_in_shared_passes(asset)
                    yield from self._complete_at_once(asset)
                    yield from self._complete_asset(asset)
            except DamagedError as error:
                # Covers what was read to find out what is outstanding. From now on the artifact counts as missing.
                self.versions.workspace.store.mark_damaged(error.folder, error.files, error.problem)
                self._result.repaired.append(str(error.folder))
                versions = self.look(versions.choice)
            else:
                self._reduce_spent()
                return

    def complete_members(self) -> Iterator[Event]:
        """Complete the ensemble's further members, one after the other, and publish what is new of them."""
        readers = self.look("published")
        if not readers.members:
            return
        for member in readers.members:
            self._watcher.turns_to(member.number)
            yield from self.complete(member)
        self._watcher.turns_to(readers.number)
        self.versions = readers
        if any(self._result.of_members.values()):
            yield from self.complete(self.look("published"))

    def _reduce_spent(self) -> None:
        """Reduce what is no longer needed, if a run was killed before it could; what fails is left to `gc`."""
        versions = self.versions
        spent = [asset for asset in versions.workspace.graph if versions.is_spent(asset)]
        keys = [versions.key(asset, partition) for asset in spent for partition in versions.partitions(asset)]
        with suppress(StorageError):
            reduce_spent(versions, [key for key in keys if key is not None])

    def begin_generation(self) -> Iterator[Event]:
        """Fit another generation, after what it is made of."""
        another = Versions(self.versions.workspace.again(), fit_another=True)
        graph = another.workspace.graph
        if (generation := graph.generation) is None:
            return
        for asset in (graph[name] for name in generation.inputs_of(another.workspace.study)):
            if not another.stands(asset, Partition()):
                yield StageBegun(asset, another.choice)
                yield from self._compute(another, [((asset, Partition()),)])
        if not self._result.failures:
            yield StageBegun(generation, another.choice)
            yield from self._compute(another, [((generation, Partition()),)])

    def _complete_asset(self, asset: AssetDefinition) -> Iterator[Event]:
        versions = self.versions.of(asset)
        yield from self._compute(versions, [((asset, each),) for each in self._computable(versions, asset)])

    def _complete_at_once(self, asset: AssetDefinition) -> Iterator[Event]:
        """Compute an asset's outstanding partitions in groups of about one size, if it can compute several at once."""
        versions = self.versions.of(asset)
        if asset.at_once is None or len(due := self._computable(versions, asset)) < 2:  # one is alone
            return
        groups = -(-len(due) // max(1, asset.at_once.most(versions)))
        if groups < len(due):
            ends = [len(due) * number // groups for number in range(groups + 1)]
            shares = [due[start:end] for start, end in pairwise(ends)]
            yield from self._compute(versions, [tuple((asset, each) for each in share) for share in shares])

    def _computable(self, versions: Versions, asset: AssetDefinition) -> list[Partition]:
        """Return the partitions of an asset that are outstanding, have not failed, and have all of their inputs."""
        failed = {
            failure.partition
            for failure in self._result.failures
            if failure.asset.name == asset.name and failure.member == versions.number
        }
        outstanding = [
            partition
            for partition in versions.partitions(asset)
            if partition not in failed and not versions.stands(asset, partition)
        ]
        return [partition for partition in outstanding if versions.key_and_inputs(asset, partition) is not None]

    def _complete_in_shared_passes(self, asset: AssetDefinition) -> Iterator[Event]:
        """Compute an asset's outstanding partitions with one pass for each shard, and whatever can share that pass.

        A shard that is added to an existing generation has all of these assets outstanding at once. Inputs of the pass
        that belong to query sets, and so need no shard, are computed first.
        """
        versions, graph = self.versions, self.versions.workspace.graph
        measures = asset.measures
        if measures is None or not any(
            measures.joins(versions, partition) and not versions.stands(asset, partition)
            for partition in versions.partitions(asset)
        ):
            return
        for member in graph.sharing_a_pass_with(asset):
            for name in member.inputs_of(versions.workspace.study):
                if graph[name].partitioned_by == "query_set":
                    yield from self._complete_asset(graph[name])
        sizes: dict[ArtifactKey, int] = {}
        passes = [members_of_one_pass(versions, asset, shard, sizes) for shard in versions.workspace.shards]
        passes = [members for members in passes if any(member.asset is asset for member in members)]
        groups = [tuple((m.asset, m.partition) for m in members) for members in passes if len(members) > 1]
        yield from self._compute(versions, groups)

    def _compute(
        self, versions: Versions, groups: Sequence[tuple[Place, ...]]
    ) -> Iterator[Finished | Failure | PassFailed]:
        """Compute groups of partitions that do not depend on one another."""
        tasks = [self._task(versions, group, len(groups) - number) for number, group in enumerate(groups)]
        for task, task_result in self._executor.run(tasks, partial(self._compute_here, versions)):
            if isinstance(task_result, DamagedError):
                raise task_result
            if isinstance(task_result, Exception):
                yield from self._failed(versions, task, task_result)
            else:
                yield from self._finished(versions, task, task_result)

    def _task(self, versions: Versions, group: Iterable[Place], outstanding: int) -> Task:
        workspace = versions.workspace
        places = tuple((asset.name, partition) for asset, partition in group)
        return Task(
            workspace.study, workspace.load_graph, places, versions.choice, versions.fit_another, self._run_id,
            outstanding,
        )  # fmt: skip

    def _compute_here(self, versions: Versions, task: Task) -> Sequence[Computed]:
        name, partition = task.places[0]
        asset = versions.workspace.graph[name]
        self._watcher.begins(asset, partition, task.outstanding)
        return compute_with(versions, task, partial(self._watcher.progress, asset, partition))

    def _failed(self, versions: Versions, task: Task, error: Exception) -> Iterator[Failure | PassFailed]:
        places = tuple((versions.workspace.graph[name], partition) for name, partition in task.places)
        if len(places) > 1:
            self._result.failed_passes.append(PassFailed(places, error))
            yield self._result.failed_passes[-1]
        else:
            self._result.failures.append(Failure(*places[0], error, versions.number))
            yield self._result.failures[-1]

    def _finished(self, versions: Versions, task: Task, computed: Sequence[Computed]) -> Iterator[Finished]:
        for (name, partition), each in zip(task.places, computed, strict=True):
            asset = versions.workspace.graph[name]
            if each.is_new:
                of_members = self._result.of_members.setdefault(versions.number, []) if versions.number else None
                (self._result.computed if of_members is None else of_members).append((asset, partition))
            outcome = Outcome(versions.workspace.store.open_what_is_left(each.key), each.is_new)
            yield Finished(asset, partition, outcome, versions)


def is_generation_due(versions: Versions) -> bool:
    """Return whether another generation is to be fitted.

    It is if one was requested that no run has begun, or if the corpus has drifted from its generation and the study
    wants another one to be fitted then.
    """
    if is_generation_requested(versions.workspace):
        return True
    return versions.workspace.study.curvature.new_generation == "automatic" and drift(versions) is not None


def drift(versions: Versions) -> dict[str, object] | None:
    """Return the summary of the generation's drift if it exceeds the threshold; None otherwise."""
    asset = versions.workspace.graph.drift
    key = None if asset is None else versions.key(asset, Partition())
    if key is None or not versions.holds(key):
        return None
    summary = versions.workspace.store.open(key).manifest.summary
    return dict(summary) if summary["exceeds"] else None
