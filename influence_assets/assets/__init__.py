"""One asset a file, each under the name `ASSET`; beside them what several share.

A file holds all that is particular to its asset: its definition, its computation, its checks, its cost, and what a
person is shown.
"""

from functools import lru_cache
from pathlib import Path

from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.graph import AssetGraph
from influence_assets.engine.workspace import Workspace
from influence_assets.extensions import discover, extension_folders
from influence_assets.methods.registry import methods_of
from influence_assets.storage.catalogue.statements import use_folders
from influence_assets.study import Study

GROUPS = ("corpus", "model", "curvature", "queries", "attribution")
"""Groups in the order in which people read them; those of extensions follow, and the catalogue comes last."""


def asset_graph() -> AssetGraph:
    """Return the graph of all assets: the package's own, those of extension folders, and installed ones.

    The catalogue has the tables of these assets from now on.

    Raises:
        InputError: an asset's file cannot be imported, or the assets do not fit together.
    """
    graph = _graph(tuple(extension_folders()))
    use_folders(asset.sql for asset in graph if asset.sql is not None)
    return graph


def open_workspace(study: Study) -> Workspace:
    """Return a fresh look at a study's files and its store.

    Raises:
        InputError: the store cannot be written, or is another study's; or the study names a method that does not exist.
        StorageError: the store was written by another version.
    """
    methods_of(study)  # a study that names what does not exist is refused at once
    return Workspace(study, asset_graph)


@lru_cache(maxsize=4)
def _graph(_folders: tuple[Path, ...]) -> AssetGraph:
    return AssetGraph(discover(__name__, "ASSET", AssetDefinition).values(), GROUPS)
