"""Computes partitions that are not up to date: one by itself, or several together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from influence_assets.engine.checkpoints import Checkpoints
from influence_assets.engine.definition import AssetDefinition, KeyAndInputs, Progress, Work
from influence_assets.engine.generations import NumberedGeneration
from influence_assets.engine.partitions import Partition
from influence_assets.engine.plan import plan, state_rows
from influence_assets.engine.shared_pass import Member
from influence_assets.engine.versions import MEMBER, Versions
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import DamagedError, StorageError
from influence_assets.models.freed_memory import release_unused
from influence_assets.storage.artifacts import Artifact, ArtifactStore
from influence_assets.storage.artifacts.drafts import Draft
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.storage.artifacts.peak_memory import resident_bytes

MISSING_NAMED = 5


@dataclass(frozen=True)
class Outcome:
    """A partition that is up to date.

    Args:
        artifact: its artifact in the store.
        computed: False if it was up to date before, so that nothing was done.
    """

    artifact: Artifact
    computed: bool


def materialise(
    versions: Versions, asset: AssetDefinition, partition: Partition, *, run_id: str | None, progress: Progress
) -> Outcome:
    """Bring one partition up to date.

    Raises:
        StorageError: an input is missing or out of date; the error names it.
        InputError: the user's files cannot be used as they are; earlier results are unchanged.
    """
    workspace = versions.workspace
    key, inputs = _computable(versions, asset, partition)
    store = workspace.store
    # Another process may compute the same partition; the second one to get the lock finds it up to date.
    with store.shared_lock(), store.partition_lock(key):
        if versions.stands(asset, partition):
            return Outcome(store.open_what_is_left(key), computed=False)
        checkpoints = _checkpoints(versions, asset, (key, inputs), run_id)
        _release_unused(workspace)
        with _marking_damage(store), _writing(versions, asset, (key, inputs), run_id) as draft:
            states = partial(_states, versions)
            asset.compute(Work(asset, workspace, partition, key, inputs, draft, progress, states, checkpoints))
            draft.summarise(**_generation_summary(versions, asset, key), **_member_summary(versions))
            if store.holds(key):  # an artifact that is no longer valid: only damaged ones can be replaced
                store.mark_damaged(store.place(key), [], "is no longer valid")
        checkpoints.clear()
        reduce_spent(versions, inputs)
        return Outcome(store.open(key), computed=True)


def materialise_together(
    versions: Versions, members: Sequence[Member], *, run_id: str | None, progress: Progress
) -> list[Outcome]:
    """Bring several partitions up to date together.

    They are those of one shard that a pass of the model computes, or those of one asset that it computes at once.

    Args:
        versions: the versions to compute.
        members: the partitions; inputs that are not among them must be up to date.
        run_id: the run's id, for the manifests.
        progress: called with how much of all of them is done.

    Returns:
        The outcome of each partition, in the order of the members.

    Raises:
        StorageError: a draft cannot be written.
        InputError: the user's files cannot be used as they are; earlier results are unchanged.
    """
    workspace, store = versions.workspace, versions.workspace.store
    compute = _computing_together(members[0].asset)
    computed = [False] * len(members)
    with store.shared_lock(), ExitStack() as locks:
        for key in sorted((member.key_and_inputs[0] for member in members), key=str):  # one order: no deadlock
            locks.enter_context(store.partition_lock(key))
        _release_unused(workspace)
        with _marking_damage(store), ExitStack() as drafts:
            works: list[Work] = []
            for number, member in enumerate(members):
                if not versions.holds(member.key_and_inputs[0]):
                    draft = drafts.enter_context(_writing(versions, member.asset, member.key_and_inputs, run_id))
                    states = partial(_states, versions)
                    place = member.asset, workspace, member.partition
                    checkpoints = _checkpoints(versions, member.asset, member.key_and_inputs, run_id)
                    works.append(Work(*place, *member.key_and_inputs, draft, progress, states, checkpoints))
                    computed[number] = True
            if works:
                compute(works)
            for work in works:
                work.draft.summarise(**_member_summary(versions))
                work.draft.shares_its_cost_with(len(works) - 1)
        keys = (member.key_and_inputs[0] for member in members)
        return [Outcome(store.open(key), computed=new) for key, new in zip(keys, computed, strict=True)]


def materialise_at_once(
    versions: Versions, places: Sequence[tuple[AssetDefinition, Partition]], *, run_id: str | None, progress: Progress
) -> list[Outcome]:
    """Bring several partitions of an asset that can compute them at once up to date; see `materialise_together`.

    Raises:
        StorageError: an input is missing or out of date, or a draft cannot be written.
        InputError: the user's files cannot be used as they are; earlier results are unchanged.
    """
    members = [Member(*place, _computable(versions, *place)) for place in places]
    return materialise_together(versions, members, run_id=run_id, progress=progress)


def reduce_spent(versions: Versions, keys: Sequence[ArtifactKey]) -> None:
    """Reduce those of some artifacts to their manifests that are no longer needed (`AssetDefinition.needed_until`).

    Raises:
        StorageError: the disk reports an error.
    """
    store = versions.workspace.store
    for key in keys:
        asset = versions.workspace.graph.get(key.asset)
        if asset is not None and versions.is_spent(asset) and store.has_content(key):
            with store.partition_lock(key):
                store.reduce_to_record(key)
            versions.forget(key)


def _computing_together(asset: AssetDefinition) -> Callable[[Sequence[Work]], None]:
    """Return what fills the drafts of several partitions that are computed together, of which one is of this asset."""
    together = asset.at_once if asset.measures is None else asset.measures.shared_pass
    assert together is not None  # noqa: S101  # no others are put together
    return together.compute


def _release_unused(workspace: Workspace) -> None:
    """Give back what earlier work has freed, where it could be in the way and would count as this work's memory."""
    limit = workspace.study.compute.memory_bytes
    if limit is not None and resident_bytes() > limit / 2:
        release_unused()


def _computable(versions: Versions, asset: AssetDefinition, partition: Partition) -> KeyAndInputs:
    """Return the key and inputs of a partition that is up to date or has all its inputs; raise otherwise."""
    key_and_inputs = versions.key_and_inputs(asset, partition)
    if key_and_inputs is not None and (
        all(map(versions.holds, key_and_inputs[1])) or versions.stands(asset, partition)
    ):
        return key_and_inputs
    missing = ", ".join(versions.missing_inputs(asset, partition)[:MISSING_NAMED]) or "an input"
    raise StorageError(
        f"{asset.name} needs {missing}, which is missing or out of date. "
        "Materialise it first, or bring everything up to date with `influence run`."
    )


def _writing(
    versions: Versions, asset: AssetDefinition, key_and_inputs: KeyAndInputs, run_id: str | None
) -> AbstractContextManager[Draft]:
    key, inputs = key_and_inputs
    return versions.workspace.store.write(
        key,
        inputs=inputs,
        code_version=asset.code_version,
        settings=versions.settings(asset),
        run_id=run_id,
        device=versions.workspace.device if asset.runs_model else None,
    )


def _checkpoints(
    versions: Versions, asset: AssetDefinition, key_and_inputs: KeyAndInputs, run_id: str | None
) -> Checkpoints:
    partition = Partition.parse(asset.partitioned_by, key_and_inputs[0].partition)
    return Checkpoints(
        versions.workspace.store,
        *key_and_inputs,
        lambda inputs, part: versions.key_from(asset, partition, inputs, checkpoint=part),
        lambda key, inputs: _writing(versions, asset, (key, tuple(inputs)), run_id),
    )


@contextmanager
def _marking_damage(store: ArtifactStore) -> Iterator[None]:
    """Mark an artifact that is found damaged, so that it counts as missing and is computed again."""
    try:
        yield
    except DamagedError as error:
        store.mark_damaged(error.folder, error.files, error.problem)
        raise


def _states(versions: Versions) -> pl.DataFrame:
    return state_rows(list(plan(versions)))


def _member_summary(versions: Versions) -> Mapping[str, Any]:
    """Return the number of a member of an ensemble; empty for the study's own model."""
    return {MEMBER: versions.number} if versions.number else {}


def _generation_summary(versions: Versions, asset: AssetDefinition, key: ArtifactKey) -> Mapping[str, Any]:
    """Return the summary of a generation (`NumberedGeneration.summary`); empty for other assets."""
    return asset.frozen.summary(versions, key) if isinstance(asset.frozen, NumberedGeneration) else {}
