"""The step of the group `catalogue`: the DuckDB file."""

from collections.abc import Collection, Sequence

import polars as pl

from influence_assets.errors import InputError, StorageError
from influence_assets.pipeline.graph import BY_NAME
from influence_assets.pipeline.plan import plan, state_rows
from influence_assets.pipeline.steps import Partition, Work
from influence_assets.pipeline.versions import Versions
from influence_assets.pipeline.withdrawals import Tombstones
from influence_assets.pipeline.workspace import Workspace
from influence_assets.storage.artifacts import ArtifactStore
from influence_assets.storage.catalogue import CatalogueChange, CatalogueContent, load_catalogue, loaded_keys, query
from influence_assets.storage.manifest import ArtifactKey


def influence_catalogue(work: Work) -> None:
    """Load what the study asks for, and the manifests of all that it was computed from."""
    workspace = work.workspace
    _refuse_shared_ids(work)
    # Before the rows go: should this run end between the two, the next one still knows of them.
    Tombstones(workspace.store.root).store(workspace.tombstones)
    content = _content(workspace, work.key, work.inputs, work.states())
    change = load_catalogue(workspace.catalogue, content, workspace.store)
    work.draft.summarise(
        generation_id=content.current_generation,
        loaded_artifacts=change.loaded,
        removed_artifacts=change.removed,
        unchanged_artifacts=change.unchanged,
        inserted_rows=dict(change.rows),
        catalogue_bytes=workspace.catalogue.stat().st_size,
        content_version=change.content_version,
    )


def rebuild_catalogue(versions: Versions) -> CatalogueChange:
    """Build the file from nothing and put it in the place of the one that stands.

    Raises:
        StorageError: what the catalogue is made of is missing or out of date.
    """
    workspace = versions.workspace
    step = BY_NAME["influence_catalogue"]
    with workspace.store.in_use():
        found = versions.find(step, Partition())
        if found is None:
            raise StorageError("Something is missing or out of date. Bring everything up to date with `influence run`.")
        key, inputs = found
        content = _content(workspace, key, inputs, state_rows(list(plan(versions))))
        return load_catalogue(workspace.catalogue, content, workspace.store, anew=True)


def published_content(workspace: Workspace, leaving_out: Collection[ArtifactKey] = ()) -> CatalogueContent:
    """What the catalogue holds now, without some of it.

    Raises:
        StorageError: there is no catalogue.
    """
    current = query(workspace.catalogue, "select generation_id from generations where is_current")["generation_id"]
    return CatalogueContent(
        study=workspace.study.name,
        current_generation=current.item() if len(current) else None,
        artifacts=[key for key in loaded_keys(workspace.catalogue) if key not in leaving_out],
        tombstones=workspace.tombstones if leaving_out else Tombstones(workspace.store.root).stored(),
        states=query(workspace.catalogue, "from partition_states"),
    )


def _content(
    workspace: Workspace, key: ArtifactKey, inputs: Sequence[ArtifactKey], states: pl.DataFrame
) -> CatalogueContent:
    # The catalogue itself stands once this is published.
    is_own = pl.col("asset") == key.asset
    own = {"state": "standing", "data_version": key.data_version, "standing_data_version": key.data_version}
    states = states.with_columns(
        *(pl.when(is_own).then(pl.lit(said)).otherwise(name).alias(name) for name, said in own.items()),
        pl.when(is_own).then(None).otherwise("cause").alias("cause"),
    )
    return CatalogueContent(
        study=workspace.study.name,
        current_generation=_newest_generation(workspace.store, inputs),
        artifacts=inputs,
        tombstones=workspace.tombstones,
        states=states,
    )


def _newest_generation(store: ArtifactStore, inputs: Sequence[ArtifactKey]) -> int:
    """The current generation's number; that of the one before, which may be there too, is smaller."""
    curvatures = (store.open(key).manifest for key in inputs if key.asset == "curvature")
    return max(int(manifest.summary["generation_id"]) for manifest in curvatures)


def _refuse_shared_ids(work: Work) -> None:
    """See to it that a question's id is its own: query sets that were computed apart may come together here."""
    queries = pl.concat(artifact.table("queries") for artifact in work.open_all("query_gradients"))
    shared = queries.filter(pl.col("query_id").is_duplicated()).sort("query_id", "query_set_id").head(2).collect()
    if shared.height:
        one, other = (
            f"{work.workspace.query_file(row['query_set_id']).url}, row {row['source_row']}"
            for row in shared.iter_rows(named=True)
        )
        problem = f"query_id {shared['query_id'][0]!r} is that of {other}, too"
        raise InputError(one, problem, "Give each row a query_id of its own, and each question once.")
