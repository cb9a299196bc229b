"""Computes one partition of one step, unless it stands already."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from influence_assets.errors import StorageError
from influence_assets.pipeline.generations import next_generation_id
from influence_assets.pipeline.graph import BY_NAME
from influence_assets.pipeline.steps import Partition, Progress, Step, Work
from influence_assets.pipeline.versions import Versions
from influence_assets.storage.artifacts import Artifact


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
    if found is None:
        missing = ", ".join(versions.missing_inputs(step, partition)[:5]) or "an input"
        raise StorageError(
            f"{step.name} needs {missing}, which is missing or out of date. "
            "Materialise it first, or bring everything up to date with `influence run`."
        )
    key, inputs = found
    if versions.stands(step, partition):
        return Outcome(workspace.store.open(key), computed=False)
    settings = dict(step.settings(workspace.study))
    device = workspace.device if step.heavy else None
    with workspace.store.write(
        key, inputs=inputs, code_version=step.code_version, settings=settings, run_id=run_id, device=device
    ) as draft:
        step.compute(Work(workspace, partition, key, inputs, draft, progress))
        draft.summarise(**_numbered(versions, step))
    return Outcome(workspace.store.open(key), computed=True)


def _numbered(versions: Versions, step: Step) -> Mapping[str, Any]:
    """A generation's number, and what makes it comparable with others."""
    if step.name != "eigenbases":
        return {}
    model = versions.key(BY_NAME["language_model"], Partition())
    if model is None:
        raise StorageError("language_model was removed while its generation was fitted. Run again.")
    return {"generation_id": next_generation_id(versions.workspace), "identity": versions.identity(model)}
