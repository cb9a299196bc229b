"""The contract of executors, which compute partitions in this process or elsewhere.

An executor is given partitions that do not depend on one another, and reports each when it ends. The engine decides
their order, what is outstanding, and what happens after a failure.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from influence_assets.engine.graph import AssetGraph
from influence_assets.engine.materialise import Outcome, materialise, materialise_at_once, materialise_together
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shared_pass import members_of_one_pass
from influence_assets.engine.versions import Choice, Versions
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError
from influence_assets.extensions import add_folders, discover
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.study import Study

PACKAGE = "influence_assets.engine.executors"


@dataclass(frozen=True)
class Task:
    """Partitions to compute together. A task can be pickled, so that another process can compute it.

    Args:
        study: the study.
        load_graph: returns the study's assets.
        places: the partitions, each with the name of its asset; if there are several, they belong to one shard and
            share one pass of the model, or to one asset, which computes them at once.
        choice: the generation to compute in.
        fit_another: whether another generation is fitted.
        run_id: the run's id, for the manifests.
        outstanding: the number of outstanding tasks of this kind, this one included, to show progress.
    """

    study: Study
    load_graph: Callable[[], AssetGraph]
    places: tuple[tuple[str, Partition], ...]
    choice: Choice
    fit_another: bool
    run_id: str | None
    outstanding: int = 1


@dataclass(frozen=True)
class Computed:
    """A partition that is up to date.

    Args:
        key: the key of its artifact.
        is_new: False if it was up to date before.
    """

    key: ArtifactKey
    is_new: bool


TaskResult = Sequence[Computed] | Exception
"""The result of a task: its partitions in the order of `places`, or the exception that it raised."""


class Executor(ABC):
    """Computes tasks that do not depend on one another."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The executor's name, as `compute.executor` in the study gives it."""

    @abstractmethod
    def run(
        self, tasks: Sequence[Task], compute_here: Callable[[Task], Sequence[Computed]]
    ) -> Iterator[tuple[Task, TaskResult]]:
        """Compute every task, and yield each with its result when it ends.

        An exception that a task raises is its result and does not stop the other tasks. A `BaseException` that is not
        an `Exception`, such as the user's interrupt, ends the iterator, and so does closing it: no task is computed
        after that.

        Args:
            tasks: the tasks, in the order in which to begin them.
            compute_here: computes a task in this process and shows its progress; other processes call `compute_task`.
        """


def compute_task(task: Task) -> list[Computed]:
    """Compute a task with a fresh look at the study; for executors that use other processes.

    Raises:
        InputError: the user's files cannot be used as they are.
        StorageError: an input is missing or damaged, or the disk refuses.
    """
    add_folders(map(Path, task.study.extensions))  # another process has not loaded the study's file
    versions = Versions(Workspace(task.study, task.load_graph), task.choice, fit_another=task.fit_another)
    return compute_with(versions, task, lambda _done, _total: None)


def compute_with(versions: Versions, task: Task, progress: Callable[[int, int | None], None]) -> list[Computed]:
    """Compute a task with existing versions; arguments and errors are those of `compute_task`."""
    graph = versions.workspace.graph
    places = [(graph[name], partition) for name, partition in task.places]
    outcomes: list[Outcome] = []
    if len(places) > 1 and places[0][0].at_once is not None:
        outcomes = materialise_at_once(versions, places, run_id=task.run_id, progress=progress)
    elif len(places) > 1:
        members = members_of_one_pass(versions, places[0][0], str(places[0][1].shard), {})
        selected = [member for member in members if (member.asset, member.partition) in places]
        if selected:
            outcomes = materialise_together(versions, selected, run_id=task.run_id, progress=progress)
        # What another process has computed since is no longer among the members.
        done = {outcome.artifact.key: outcome for outcome in outcomes}
        places_left = [place for place in places if versions.key(*place) not in done]
        rest = [materialise(versions, *place, run_id=task.run_id, progress=progress) for place in places_left]
        by_key = done | {outcome.artifact.key: outcome for outcome in rest}
        outcomes = [by_key[key] for place in places if (key := versions.key(*place)) is not None]
    else:
        outcomes = [materialise(versions, *places[0], run_id=task.run_id, progress=progress)]
    return [Computed(outcome.artifact.key, outcome.computed) for outcome in outcomes]


def executor_of(study: Study) -> Executor:
    """Return the executor that a study names.

    Raises:
        InputError: no executor has this name; the error lists the known ones.
    """
    executors = discover(PACKAGE, "EXECUTOR", Executor)  # type: ignore[type-abstract]
    if study.compute.executor not in executors:
        raise InputError(
            "compute.executor", f"{study.compute.executor!r} is not known", f"There are {', '.join(sorted(executors))}."
        )
    return executors[study.compute.executor]
