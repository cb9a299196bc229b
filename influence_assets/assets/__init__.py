"""The assets, one in each file under the name `ASSET`, and modules that several of them share.

A file holds everything that is particular to its asset: its definition, its computation, its checks, its cost, and what
the UI shows.
"""

from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path

from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.graph import AssetGraph
from influence_assets.engine.partitions import Partition
from influence_assets.engine.workspace import Workspace
from influence_assets.extensions import discover, extension_folders, own_parts
from influence_assets.methods.registry import refuse_unknown_methods
from influence_assets.storage.catalogue.statements import use_folders
from influence_assets.study import Study

GROUPS = ("corpus", "model", "curvature", "queries", "attribution", "evaluation")
"""Groups in reading order; those of extensions follow, and the catalogue comes last."""


def asset_graph() -> AssetGraph:
    """Return the graph of all assets: the package's own, those of extension folders, and installed ones.

    From now on, the catalogue has the tables of these assets.

    Raises:
        InputError: an asset's file cannot be imported, or the assets do not fit together.
    """
    graph = _graph(tuple(extension_folders()))
    use_folders(asset.sql for asset in graph if asset.sql is not None)
    return graph


def open_workspace(study: Study, requested: Mapping[str, Collection[Partition]] | None = None) -> Workspace:
    """Return a new view of a study's files and its store.

    Args:
        study: the study.
        requested: the partitions that are wanted of assets that are computed on request only, by the asset's name.

    Raises:
        InputError: the store cannot be written, or belongs to another study; or the study names an unknown method.
        StorageError: the store was written by another version.
    """
    scored = (asset.method for asset in asset_graph())
    refuse_unknown_methods(study, {method.name: method for method in scored if method is not None})
    return Workspace(study, asset_graph, requested)


def open_without_extensions(study: Study) -> Workspace:
    """Return a view of a study's store that needs neither its methods nor the code of extensions.

    It is enough to withdraw documents, which must not wait for an unrelated fault, and computes nothing.

    Raises:
        InputError: the store cannot be written, or belongs to another study.
        StorageError: the store was written by another version.
    """
    return Workspace(study, own_graph)


@lru_cache(maxsize=1)
def own_graph() -> AssetGraph:
    """Return the graph of the package's own assets."""
    return AssetGraph(own_parts(__name__, "ASSET", AssetDefinition).values(), GROUPS)


@lru_cache(maxsize=4)
def _graph(_folders: tuple[Path, ...]) -> AssetGraph:
    return AssetGraph(discover(__name__, "ASSET", AssetDefinition).values(), GROUPS)
