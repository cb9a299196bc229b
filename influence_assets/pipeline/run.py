"""Computes one partition of one step, unless it stands already."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from influence_assets.errors import DamagedError, StorageError
from influence_assets.pipeline.generations import known_generation_id, next_generation_id
from influence_assets.pipeline.plan import plan, state_rows
from influence_assets.pipeline.steps import Partition, Progress, Step, Work
from influence_assets.pipeline.versions import Versions
from influence_assets.storage.artifacts import Artifact
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
        device = workspace.device if step.heavy else None
        try:
            with store.write(
                key, inputs=inputs, code_version=step.code_version, settings=versions.settings(step), run_id=run_id,
                device=device,
            ) as draft:  # fmt: skip
                states = partial(_states, versions)
                step.compute(Work(workspace, partition, key, inputs, draft, progress, states))
                draft.summarise(**_numbered(versions, step, key))
        except DamagedError as error:
            # From now on it counts as missing, so that the next pass computes it again.
            store.mark_damaged(error.folder, error.files, error.problem)
            raise
        return Outcome(store.open(key), computed=True)


def _states(versions: Versions) -> pl.DataFrame:
    return state_rows(list(plan(versions)))


def _numbered(versions: Versions, step: Step, key: ArtifactKey) -> Mapping[str, Any]:
    """A generation's number, and what makes it comparable with others."""
    if step.name != "eigenbases":
        return {}
    workspace = versions.workspace
    number = known_generation_id(workspace, key) or next_generation_id(workspace)
    return {"generation_id": number, "identity": versions.identity}
