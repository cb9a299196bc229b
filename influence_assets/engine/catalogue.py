"""Loads the published tables, rebuilds them from scratch, and describes their current content."""

from collections.abc import Collection, Sequence

import polars as pl

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
    return change, _newest_generation(workspace, inputs)


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
    current = query(workspace.catalogue, "select generation_id from generations where is_current")["generation_id"]
    return CatalogueContent(
        study=workspace.study.name,
        current_generation=current.item() if len(current) else None,
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
    return CatalogueContent(
        study=workspace.study.name,
        current_generation=_newest_generation(workspace, inputs),
        artifacts=inputs,
        tombstones=workspace.tombstones,
        states=states,
        holding_text=workspace.graph.holding_text,
    )


def _newest_generation(workspace: Workspace, inputs: Sequence[ArtifactKey]) -> int:
    """Return the number of the newest generation; the previous one may be loaded too."""
    end = workspace.graph.generation_end
    ends = (workspace.store.open(key).manifest for key in inputs if end is not None and key.asset == end.name)
    return max(int(manifest.summary["generation_id"]) for manifest in ends)
