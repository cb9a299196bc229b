"""The step of the group `catalogue`: the DuckDB file."""

import polars as pl

from influence_assets.errors import InputError, StorageError
from influence_assets.pipeline.graph import BY_NAME
from influence_assets.pipeline.steps import Partition, Work
from influence_assets.pipeline.versions import Versions
from influence_assets.storage.artifacts import Artifact, ArtifactStore
from influence_assets.storage.catalogue import CatalogueChange, load_catalogue
from influence_assets.storage.manifest import ArtifactKey


def influence_catalogue(work: Work) -> None:
    """Load what the study asks for, and the manifests of all that it was computed from."""
    generation = work.open("curvature").manifest.summary["generation_id"]
    store = work.workspace.store
    wanted = [store.open(key) for key in work.inputs]
    _refuse_shared_ids(work)
    change = load_catalogue(
        work.workspace.catalogue,
        wanted,
        work.study.name,
        int(generation),
        ancestors=ancestors(store, wanted),
    )
    work.draft.summarise(
        generation_id=generation,
        loaded_artifacts=change.loaded,
        removed_artifacts=change.removed,
        unchanged_artifacts=change.unchanged,
        inserted_rows=dict(change.rows),
        catalogue_bytes=work.workspace.catalogue.stat().st_size,
        content_version=change.content_version,
    )


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


def ancestors(store: ArtifactStore, artifacts: list[Artifact]) -> list[Artifact]:
    """All that these artifacts were computed from, directly or not, as far as the store still holds it."""
    found: dict[ArtifactKey, Artifact] = {}
    unseen = {key for artifact in artifacts for key in artifact.manifest.inputs}
    while unseen:
        key = unseen.pop()
        if key not in found and store.holds(key):
            found[key] = store.open(key)
            unseen |= set(found[key].manifest.inputs)
    return [found[key] for key in sorted(found, key=str)]


def rebuild_catalogue(versions: Versions) -> CatalogueChange:
    """Build the file from nothing, beside the one that stands, and put it in its place.

    Raises:
        StorageError: what the catalogue is made of is missing or out of date.
    """
    workspace = versions.workspace
    found = versions.find(BY_NAME["influence_catalogue"], Partition())
    if found is None:
        raise StorageError("Something is missing or out of date. Bring everything up to date with `influence run`.")
    wanted = [workspace.store.open(key) for key in found[1]]
    (curvature,) = (artifact for artifact in wanted if artifact.key.asset == "curvature")
    fresh = workspace.catalogue.with_suffix(".rebuilt")
    fresh.unlink(missing_ok=True)
    generation = int(curvature.manifest.summary["generation_id"])
    above = ancestors(workspace.store, wanted)
    change = load_catalogue(fresh, wanted, workspace.study.name, generation, ancestors=above)
    fresh.replace(workspace.catalogue)
    return change
