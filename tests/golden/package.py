"""All that the golden values use of the package, in one place: the graph, the store, and how a study is computed."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from influence_assets.pipeline.graph import STEPS
from influence_assets.storage.artifacts import Artifact, ArtifactStore
from tests import studies
from tests.golden import tiny_study

__all__ = ["Artifact", "assets", "code_versions", "compute", "stored_artifacts"]


def assets() -> list[str]:
    """The names of all assets, in the order in which they are computed."""
    return [step.name for step in STEPS]


def code_versions(asset: str) -> Mapping[str, str]:
    """The code versions of an asset and of all that it is computed from, directly or not."""
    by_name = {step.name: step for step in STEPS}
    versions: dict[str, str] = {}
    waiting = [asset]
    while waiting:
        step = by_name[waiting.pop()]
        if step.name not in versions:
            versions[step.name] = step.code_version
            waiting += step.upstream
    return dict(sorted(versions.items()))


def compute(study: Path, *, until: str | None = None) -> None:
    """Bring a study up to date, in this process and without Dagster."""
    studies.compute(study, until=until)


def stored_artifacts(study: Path) -> Iterator[Artifact]:
    """The latest artifact of each partition in a study's store."""
    store = ArtifactStore.open_or_create(study.parent / "store", tiny_study.NAME)
    latest = {}
    for manifest in sorted(store.manifests(), key=lambda manifest: manifest.started_at):
        latest[manifest.asset, manifest.partition] = manifest.key
    for key in latest.values():
        yield store.open(key)
