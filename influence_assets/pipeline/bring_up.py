"""Computes everything that is outstanding, in this process, whoever asked for it."""

from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from influence_assets.errors import DamagedError, StorageError
from influence_assets.pipeline.graph import BY_NAME, STEPS
from influence_assets.pipeline.plan import StepState, plan, state_rows
from influence_assets.pipeline.run import Outcome, materialise, materialise_together
from influence_assets.pipeline.steps import Partition, Step
from influence_assets.pipeline.together import together
from influence_assets.pipeline.versions import Choice, Versions
from influence_assets.pipeline.workspace import Workspace
from influence_assets.storage.catalogue import record_states
from influence_assets.storage.manifest import ArtifactKey

ATTEMPTS = 10
"""How often a run begins again because something that it read proved damaged, each time something else."""


class Watcher(Protocol):
    """Who is told how a run goes."""

    def begins(self, step: Step, partition: Partition, outstanding: int) -> None:
        """A partition is about to be computed; so many of its step are outstanding."""

    def progress(self, step: Step, partition: Partition, done: int, total: int | None) -> None:
        """So much of it is done."""


@dataclass(frozen=True)
class Stage:
    """A run turns to a step: what follows was computed while it was at this one.

    Args:
        step: the step.
        is_new_generation: whether in the newest generation, once the published one is complete.
    """

    step: Step
    is_new_generation: bool


@dataclass(frozen=True)
class Ended:
    """A partition that stands now.

    Args:
        step: its step.
        partition: which one.
        outcome: what is in the store.
        versions: by which it was asked for.
    """

    step: Step
    partition: Partition
    outcome: Outcome
    versions: Versions


@dataclass(frozen=True)
class Failure:
    """A partition that could not be computed.

    Args:
        step: its step.
        partition: which one.
        error: what it said.
    """

    step: Step
    partition: Partition
    error: Exception


@dataclass
class Result:
    """What a run did.

    Args:
        computed: partitions that were computed, in order.
        failures: what went wrong; what depends on it was left as it was.
        mended: artifacts that were found damaged on the way, and are computed again.
        states: how every partition is afterwards.
        versions: by which they are so.
        drift: what the check of the generation's drift found, where it is past the study's threshold.
    """

    computed: list[tuple[Step, Partition]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    states: list[StepState] = field(default_factory=list)
    versions: Versions | None = None
    drift: dict[str, object] | None = None

    @property
    def left_out(self) -> list[str]:
        """The steps that are not complete."""
        return [state.step.name for state in self.states if state.outstanding]

    def stood(self, step: Step) -> int:
        """Partitions of a step that stood before."""
        standing = sum(len(state.of("standing")) for state in self.states if state.step is step)
        return max(0, standing - len({partition for done, partition in self.computed if done is step}))


def bring_up_to_date(
    versions: Versions, watcher: Watcher, result: Result, *, run_id: str | None = None, new_generation: bool = False
) -> Generator[Stage | Ended | Failure]:
    """Compute everything that the study asks for and the store lacks, and tell of each partition as it ends.

    Every step that the run turns to is told as a stage; after damage it turns to earlier ones again.

    First in the generation that readers see, so that new shards reach them soon; then in a newer one that was begun,
    or is begun now because it was asked for, or because the statistics drifted and the study says so.
    A partition that fails stops nothing but what needs it.

    Args:
        versions: a fresh look at the study, in the generation that is published.
        watcher: told of beginnings and progress.
        result: filled on the way.
        run_id: the run, for the manifests.
        new_generation: fit another generation of curvature.

    Raises:
        InputError: the corpus or the queries cannot be listed.
    """
    store = versions.workspace.store
    store.remove_abandoned_drafts()
    with store.in_use():
        work = _Work(versions, watcher, result, run_id)
        yield from work.complete(versions)
        if work.versions.has_newer_generation:
            yield from work.complete(work.look("newest"))
        if (new_generation or is_generation_due(work.versions)) and not result.failures:
            yield from work.begin_generation()
            yield from work.complete(work.look("newest"))
        result.drift = drift(work.versions)
        result.versions = work.versions
        result.states = list(plan(work.versions))
        if result.left_out:
            with suppress(StorageError):  # what left them out, such as a full disk, is told already
                record_states(work.versions.workspace.catalogue, state_rows(result.states))


class _Work:
    def __init__(self, versions: Versions, watcher: Watcher, result: Result, run_id: str | None) -> None:
        self._watcher = watcher
        self._result = result
        self._run_id = run_id
        self.versions = versions

    def look(self, choice: Choice) -> Versions:
        """Look at the study and its store anew."""
        return Versions(Workspace(self.versions.workspace.study), choice)

    def complete(self, versions: Versions) -> Iterator[Stage | Ended | Failure]:
        """Compute what is outstanding, again from the start whenever something that was read proved damaged."""
        for _ in range(ATTEMPTS):
            self.versions = versions
            self._result.failures.clear()
            try:
                for step in STEPS:
                    yield Stage(step, versions.choice == "newest")
                    if step.name in ("covariances", "gradient_sketches"):
                        yield from self._complete_shards(step)
                    yield from self._complete_step(step)
            except DamagedError as error:
                # Also what was read to find out what is outstanding; from now on it counts as missing.
                self.versions.workspace.store.mark_damaged(error.folder, error.files, error.problem)
                self._result.mended.append(str(error.folder))
                versions = self.look(versions.choice)
            else:
                return

    def begin_generation(self) -> Iterator[Stage | Ended | Failure]:
        """Fit the eigenbases of another generation."""
        yield Stage(BY_NAME["eigenbases"], is_new_generation=True)
        another = Versions(Workspace(self.versions.workspace.study), fit_another=True)
        yield from self._compute(another, BY_NAME["eigenbases"], Partition(), 1)

    def _complete_step(self, step: Step) -> Iterator[Ended | Failure]:
        versions = self.versions
        failed = {failure.partition for failure in self._result.failures if failure.step is step}
        outstanding = [
            partition
            for partition in versions.partitions(step)
            if partition not in failed and not versions.stands(step, partition)
        ]
        for number, partition in enumerate(outstanding):
            if versions.find(step, partition) is not None:
                yield from self._compute(versions, step, partition, len(outstanding) - number)

    def _complete_shards(self, first: Step) -> Iterator[Ended | Failure]:
        """Compute by one pass a shard what can be had so, beginning with this step.

        A shard that comes to a standing generation has all of it outstanding at once: then the questions come first,
        which need no shard.
        """
        versions = self.versions
        fitting = first.name == "covariances"
        if fitting:
            curvature = BY_NAME["curvature"]
            if versions.generation is None or not versions.stands(curvature, Partition()):
                return
            yield from self._complete_step(BY_NAME["query_gradients"])
        shards, sizes = [partition.shard for partition in versions.partitions(first)], dict[ArtifactKey, int]()
        outstanding = [places for shard in shards if len(places := together(versions, str(shard), sizes)) > 1]
        for number, places in enumerate(outstanding):
            yield from self._compute_together(versions, places, len(outstanding) - number)

    def _compute_together(
        self, versions: Versions, places: list[tuple[Step, Partition]], outstanding: int
    ) -> Iterator[Ended | Failure]:
        self._watcher.begins(*places[0], outstanding)
        progress = partial(self._watcher.progress, *places[0])
        try:
            outcomes = materialise_together(versions, places, run_id=self._run_id, progress=progress)
        except DamagedError:
            raise
        except Exception:  # noqa: BLE001  # each is tried alone afterwards: one of them may be at fault
            return
        for (step, partition), outcome in zip(places, outcomes, strict=True):
            if outcome.computed:
                self._result.computed.append((step, partition))
            yield Ended(step, partition, outcome, versions)

    def _compute(
        self, versions: Versions, step: Step, partition: Partition, outstanding: int
    ) -> Iterator[Ended | Failure]:
        self._watcher.begins(step, partition, outstanding)
        progress = partial(self._watcher.progress, step, partition)
        try:
            outcome = materialise(versions, step, partition, run_id=self._run_id, progress=progress)
        except DamagedError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a step raises is this partition's failure alone
            self._result.failures.append(Failure(step, partition, error))
            yield self._result.failures[-1]
            return
        if outcome.computed:
            self._result.computed.append((step, partition))
        yield Ended(step, partition, outcome, versions)


def is_generation_due(versions: Versions) -> bool:
    """Whether the corpus has drifted from the generation that is asked for, and the study has another one made then."""
    return versions.workspace.study.curvature.new_generation == "automatic" and drift(versions) is not None


def drift(versions: Versions) -> dict[str, object] | None:
    """What is known of the drift of the generation that is asked for, if it is past the threshold."""
    key = versions.key(BY_NAME["curvature_drift"], Partition())
    if key is None or not versions.holds(key):
        return None
    summary = versions.workspace.store.open(key).manifest.summary
    return dict(summary) if summary["exceeds"] else None
