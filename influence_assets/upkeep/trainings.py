"""What killed trainings left: weights and optimiser states, from which the next run would go on."""

import re
from collections.abc import Iterator, Set
from pathlib import Path

from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.engine.workspace import Workspace
from influence_assets.storage.artifacts.manifest import ArtifactKey

_DATA_VERSION = re.compile(r"[0-9a-f]{32}")


def abandoned_trainings(workspace: Workspace, required: Set[ArtifactKey]) -> list[Path]:
    """Return the folders of trainings that no run would go on with, such as those on a corpus that has changed.

    Args:
        workspace: the study and its store; nothing must be training in it.
        required: what the study needs, stored or not.
    """
    folders = [folder for folder in sorted(workspace.trainings.glob("*")) if _is_ours(folder)]
    if not folders:
        return []
    wanted = required | set(_on_request(workspace))
    outstanding = {key.data_version for key in wanted if not workspace.store.holds(key)}
    return [folder for folder in folders if folder.name not in outstanding]


def size_on_disk(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and _DATA_VERSION.fullmatch(folder.name) is not None


def _on_request(workspace: Workspace) -> Iterator[ArtifactKey]:
    """Yield the keys of everything that is computed when somebody asks for it."""
    versions = Versions(workspace)
    for asset in workspace.graph:
        for name in asset.listed(workspace.study) if asset.on_request else ():
            if (key := versions.key(asset, Partition(name=name))) is not None:
                yield key
