"""All that the golden values use of the package, in one place: the graph, the store, and how a study is computed."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from influence_assets.assets import asset_graph
from influence_assets.engine.partitions import Partition
from influence_assets.storage.artifacts import Artifact, ArtifactStore
from influence_assets.study import Study
from tests import studies
from tests.golden import tiny_study

__all__ = ["Artifact", "assets", "code_versions", "compute", "on_request", "stored_artifacts"]


def assets() -> list[str]:
    """The names of all assets, in the order in which they are computed."""
    return [asset.name for asset in asset_graph()]


def code_versions(asset: str) -> Mapping[str, str]:
    """The code versions of an asset and of all that it is computed from, directly or not."""
    graph = asset_graph()
    versions: dict[str, str] = {}
    waiting = [asset]
    while waiting:
        name = waiting.pop()
        if name not in versions:
            versions[name] = graph[name].code_version
            waiting += graph[name].inputs
    return dict(sorted(versions.items()))


JUDGING = "evaluation"
"""The group of the assets by which scores are judged, which are computed when somebody asks for them."""


def on_request() -> list[str]:
    """The names of the assets that are computed on request only."""
    return [asset.name for asset in asset_graph() if asset.on_request]


def compute(study: Path, *, until: str | None = None, on_request: bool = False) -> None:
    """Bring a study up to date, in this process and without Dagster, with or without what is computed on request."""
    requested = {
        asset.name: [Partition(name=name) for name in asset.listed(Study.load(study))] or [Partition()]
        for asset in asset_graph()
        if asset.on_request and on_request and asset.group == JUDGING and asset.method is None
    }
    studies.compute(study, until=until, requested=requested)


def stored_artifacts(study: Path) -> Iterator[Artifact]:
    """The latest artifact of each partition in a study's store."""
    store = ArtifactStore.open_or_create(study.parent / "store", tiny_study.NAME)
    latest = {}
    for manifest in sorted(store.manifests(), key=lambda manifest: manifest.started_at):
        latest[manifest.asset, manifest.partition] = manifest.key
    for key in latest.values():
        yield store.open(key)
