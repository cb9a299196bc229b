"""The step of the group `catalogue`: the DuckDB file."""

from influence_assets.pipeline.steps import Work
from influence_assets.storage.artifacts import Artifact, ArtifactStore
from influence_assets.storage.catalogue import load_catalogue
from influence_assets.storage.manifest import ArtifactKey


def influence_catalogue(work: Work) -> None:
    """Load what the study asks for, and the manifests of all that it was computed from."""
    generation = work.open("curvature").manifest.summary["generation_id"]
    store = work.workspace.store
    wanted = [store.open(key) for key in work.inputs]
    change = load_catalogue(
        work.workspace.catalogue,
        wanted,
        work.study.name,
        int(generation),  # type: ignore[arg-type]
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
