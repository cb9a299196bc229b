"""Computes partitions, unless they stand already: one of one step, or several of a shard by one pass of the model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from influence_assets.errors import DamagedError, StorageError
from influence_assets.pipeline.generations import known_generation_id, next_generation_id
from influence_assets.pipeline.plan import plan, state_rows
from influence_assets.pipeline.steps import Partition, Progress, Step, Work
from influence_assets.pipeline.versions import Versions
from influence_assets.storage.artifacts import Artifact, ArtifactStore
from influence_assets.storage.drafts import Draft
from influence_assets.storage.manifest import ArtifactKey


@dataclass(frozen=True)
class Outcome:
    """A partition that stands.

    Args:
        artifact: what is in the store.
        computed: False if it stood already, so that nothing was done.
    """

    artifact: Artifact
    computed: bool


def materialise(
    versions: Versions, step: Step, partition: Partition, *, run_id: str | None, progress: Progress
) -> Outcome:
    """Bring one partition up to date.

    Raises:
        StorageError: an input is missing or out of date; names it.
        InputError: the user's files cannot be used as they are; what stood before still stands.
    """
    workspace = versions.workspace
    found = versions.find(step, partition)
    if found is None or (not all(map(versions.holds, found[1])) and not versions.stands(step, partition)):
        missing = ", ".join(versions.missing_inputs(step, partition)[:5]) or "an input"
        raise StorageError(
            f"{step.name} needs {missing}, which is missing or out of date. "
            "Materialise it first, or bring everything up to date with `influence run`."
        )
    key, inputs = found
    store = workspace.store
    # Another process may be at the same partition: whoever comes second finds it computed.
    with store.in_use(), store.claim(key):
        if versions.stands(step, partition):
            return Outcome(store.open(key), computed=False)
        with _marking_damage(store), _writing(versions, step, partition, run_id) as draft:
            states = partial(_states, versions)
            step.compute(Work(workspace, partition, key, inputs, draft, progress, states))
            draft.summarise(**_numbered(versions, step, key))
        return Outcome(store.open(key), computed=True)


def materialise_together(
    versions: Versions, places: Sequence[tuple[Step, Partition]], *, run_id: str | None, progress: Progress
) -> list[Outcome]:
    """Bring several partitions of one shard up to date, by one pass of the model.

    Args:
        versions: by which they are asked for.
        places: see `shard_pass.compute`; inputs that are not among them must stand.
        run_id: the run, for the manifests.
        progress: told of the shard's sequences.

    Returns:
        What stands now of each, in the order of the places.

    Raises:
        StorageError: a draft cannot be written.
        InputError: the user's files cannot be used as they are; what stood before still stands.
    """
    from influence_assets.pipeline import shard_pass

    workspace, store = versions.workspace, versions.workspace.store
    found = [versions.find(step, partition) for step, partition in places]
    known = [of_place for of_place in found if of_place is not None]
    if len(known) != len(places):
        raise StorageError("a partition was asked for of which an input is missing")
    computed = [False] * len(places)
    with store.in_use(), ExitStack() as claims:
        for key, _ in sorted(known, key=lambda of_place: str(of_place[0])):  # always in one order: no deadlock
            claims.enter_context(store.claim(key))
        with _marking_damage(store), ExitStack() as drafts:
            works: list[Work] = []
            # Drafts are published from the last to the first, so that nothing stands before what it was computed from.
            for number, (step, partition) in reversed(list(enumerate(places))):
                if not versions.stands(step, partition):
                    draft = drafts.enter_context(_writing(versions, step, partition, run_id))
                    states = partial(_states, versions)
                    works.insert(0, Work(workspace, partition, *known[number], draft, progress, states))
                    computed[number] = True
            if works:
                shard_pass.compute(works)
            for work in works:
                work.draft.shares_its_cost_with(len(works) - 1)
        return [Outcome(store.open(key), computed=new) for (key, _), new in zip(known, computed, strict=True)]


def _writing(versions: Versions, step: Step, partition: Partition, run_id: str | None) -> AbstractContextManager[Draft]:
    found = versions.find(step, partition)
    assert found is not None  # noqa: S101  # both callers have seen to it
    key, inputs = found
    return versions.workspace.store.write(
        key,
        inputs=inputs,
        code_version=step.code_version,
        settings=versions.settings(step),
        run_id=run_id,
        device=versions.workspace.device if step.heavy else None,
    )


@contextmanager
def _marking_damage(store: ArtifactStore) -> Iterator[None]:
    """What proves damaged counts as missing from now on, so that the next pass computes it again."""
    try:
        yield
    except DamagedError as error:
        store.mark_damaged(error.folder, error.files, error.problem)
        raise


def _states(versions: Versions) -> pl.DataFrame:
    return state_rows(list(plan(versions)))


def _numbered(versions: Versions, step: Step, key: ArtifactKey) -> Mapping[str, Any]:
    """A generation's number, and what makes it comparable with others."""
    if step.name != "eigenbases":
        return {}
    workspace = versions.workspace
    number = known_generation_id(workspace, key) or next_generation_id(workspace)
    return {"generation_id": number, "identity": versions.identity}
