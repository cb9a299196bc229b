"""Loads the published tables, rebuilds them from scratch, and describes their current content."""

from collections.abc import Collection, Sequence

import polars as pl

from influence_assets.engine.generations import NumberedGeneration
from influence_assets.engine.partitions import Partition
from influence_assets.engine.plan import plan, state_rows
from influence_assets.engine.tombstones import Tombstones
from influence_assets.engine.versions import Versions
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import StorageError
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.storage.catalogue import CatalogueChange, CatalogueContent, load_catalogue, loaded_keys, query


def load(
    workspace: Workspace, key: ArtifactKey, inputs: Sequence[ArtifactKey], states: pl.DataFrame
) -> tuple[CatalogueChange, int]:
    """Load artifacts into the tables, and return what changed and the number of the current generation.

    Args:
        workspace: the study and its store.
        key: the catalogue's own key.
        inputs: the artifacts to load.
        states: rows of `partition_states`.

    Raises:
        StorageError: an artifact cannot be read, or the file cannot be written.
    """
    # Before rows are removed: if this run ends between the two steps, the next one still knows about the documents.
    Tombstones(workspace.store.backend).store(workspace.tombstones)
    content = _content(workspace, key, inputs, states)
    change = load_catalogue(workspace.catalogue, content, workspace.store)
    assert content.current_generation is not None  # noqa: S101  # there is no load without one
    return change, content.current_generation


def rebuild_catalogue(versions: Versions) -> CatalogueChange:
    """Build the file from scratch and replace the current one.

    Raises:
        StorageError: an artifact that the catalogue is built from is missing or out of date.
    """
    workspace = versions.workspace
    catalogue = workspace.graph.catalogue
    with workspace.store.shared_lock():
        key_and_inputs = None if catalogue is None else versions.key_and_inputs(catalogue, Partition())
        if key_and_inputs is None:
            raise StorageError("Something is missing or out of date. Bring everything up to date with `influence run`.")
        key, inputs = key_and_inputs
        content = _content(workspace, key, inputs, state_rows(list(plan(versions))))
        return load_catalogue(workspace.catalogue, content, workspace.store, anew=True)


def published_content(
    workspace: Workspace, leaving_out: Collection[ArtifactKey] = (), tombstones: pl.DataFrame | None = None
) -> CatalogueContent:
    """Return the catalogue's current content, without some artifacts.

    Args:
        workspace: the study and its store.
        leaving_out: artifacts whose rows are left out.
        tombstones: the tombstones to include; the stored ones by default.

    Raises:
        StorageError: there is no catalogue.
    """
    generations = query(workspace.catalogue, "from generations").to_dicts()
    return CatalogueContent(
        study=workspace.study.name,
        current_generation=next((row["generation_id"] for row in generations if row["is_current"]), None),
        # A file that an earlier release wrote has none.
        members={row["generation_id"]: row["member"] for row in generations if row.get("member")},
        artifacts=[key for key in loaded_keys(workspace.catalogue) if key not in leaving_out],
        tombstones=Tombstones(workspace.store.backend).stored() if tombstones is None else tombstones,
        states=query(workspace.catalogue, "from partition_states"),
        holding_text=workspace.graph.holding_text,
    )


def _content(
    workspace: Workspace, key: ArtifactKey, inputs: Sequence[ArtifactKey], states: pl.DataFrame
) -> CatalogueContent:
    # Publishing this content makes the catalogue itself up to date.
    is_own = pl.col("asset") == key.asset
    own = {"state": "standing", "data_version": key.data_version, "standing_data_version": key.data_version}
    states = states.with_columns(
        *(pl.when(is_own).then(pl.lit(value)).otherwise(name).alias(name) for name, value in own.items()),
        pl.when(is_own).then(None).otherwise("cause").alias("cause"),
    )
    generations = _generations(workspace, inputs)
    return CatalogueContent(
        study=workspace.study.name,
        # The newest; the previous one may be loaded too.
        current_generation=max(generation for generation, member in generations.items() if not member),
        members={generation: member for generation, member in generations.items() if member},
        artifacts=inputs,
        tombstones=workspace.tombstones,
        states=states,
        holding_text=workspace.graph.holding_text,
    )


def _generations(workspace: Workspace, inputs: Sequence[ArtifactKey]) -> dict[int, int]:
    """Return the numbers of the generations to load, each with the number of the ensemble's member that it is of."""
    end = workspace.graph.generation_end
    ends = [workspace.store.open(key).manifest for key in inputs if end is not None and key.asset == end.name]
    models = _models_of_members(workspace)
    return {
        int(manifest.summary["generation_id"]): next((models[key] for key in manifest.inputs if key in models), 0)
        for manifest in ends
    }


def _models_of_members(workspace: Workspace) -> dict[ArtifactKey, int]:
    """Return the model of each further member of the ensemble, with the member's number."""
    graph = workspace.graph
    rule = None if graph.generation is None else graph.generation.frozen
    if not isinstance(rule, NumberedGeneration):
        return {}
    keys = {member.key(graph[rule.model], Partition()): member.number for member in Versions(workspace).members}
    return {key: number for key, number in keys.items() if key is not None}
