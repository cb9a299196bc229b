"""The published tables: loaded from what the study asks for, rebuilt from nothing, or as they are now."""

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
    """Load artifacts into the tables, and return what changed and the generation that is current now.

    Args:
        workspace: the study.
        key: the load itself.
        inputs: what is loaded.
        states: rows of `partition_states`.

    Raises:
        StorageError: an artifact cannot be read, or the file cannot be written.
    """
    # Before the rows go: should this run end between the two, the next one still knows of them.
    Tombstones(workspace.store.backend).store(workspace.tombstones)
    content = _content(workspace, key, inputs, states)
    change = load_catalogue(workspace.catalogue, content, workspace.store)
    return change, _newest_generation(workspace, inputs)


def rebuild_catalogue(versions: Versions) -> CatalogueChange:
    """Build the file from nothing and put it in the place of the one that stands.

    Raises:
        StorageError: what the catalogue is made of is missing or out of date.
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
    """Return what the catalogue holds now, without some of it.

    Args:
        workspace: the study.
        leaving_out: artifacts whose rows go.
        tombstones: those that it shall hold; the stored ones by default.

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
    # The catalogue itself stands once this is published.
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
    """The current generation's number; that of the one before, which may be loaded too, is smaller."""
    end = workspace.graph.generation_end
    ends = (workspace.store.open(key).manifest for key in inputs if end is not None and key.asset == end.name)
    return max(int(manifest.summary["generation_id"]) for manifest in ends)
