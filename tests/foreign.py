"""Files that the product did not make, put everywhere in a store: at every depth, hidden, linked, named like ours."""

import hashlib
import json
import os
import shutil
from pathlib import Path

VERSION = "0123456789abcdef0123456789abcdef"
PLACES = ("notes", "notes/a", "notes/a/b", "notes/a/b/c", ".hidden", ".hidden/.a", ".hidden/.a/.b", ".hidden/.a/.b/.c")
NAMED_LIKE_OURS = (
    f"{VERSION}/manifest.json",
    f"{VERSION}/damaged.json",
    f"{VERSION}/arrays/tokens/zarr.json",
    f".record-{VERSION}.json",
    f".record-{VERSION[::-1]}.json",
    f".draft-{VERSION}-1-elsewhere",
    f".draft-{VERSION}-999999999-{os.uname().nodename}/thesis.txt",
)
LOCKS = (".lock", ".claim", ".in_use")
MANIFEST = {"checksum": "0" * 64, "format_version": 3, "study": "thesis", "files": ["a", "b"]}


def plant(root: Path) -> set[Path]:
    """Put foreign files, folders and links into a store, some of them beside and inside the store's own artifacts.

    Returns:
        All of their paths.
    """
    before = set(every_path(root))
    manifest = next(path for path in sorted(root.glob("documents/*/*/manifest.json")))
    own_artifact, own_partition = manifest.parent, manifest.parent.parent
    outside = root.parent / "outside"
    for folder in PLACES:
        _write(root / folder / "thesis.txt", f"thesis of {folder}")
        _write(outside / folder / "thesis.txt", f"outside, of {folder}")
    for folder in ("", "documents", "documents/mine", "mine/jan", ".cache/jan", ".training/jan"):
        for name in NAMED_LIKE_OURS:
            _write(root / folder / name, json.dumps(MANIFEST))
    for folder in ("mine/locks", "documents/locks", "mine/empty_locks"):
        for name in LOCKS:
            _write(root / folder / name, "" if "empty" in folder else "a lock of somebody else")
    for folder in ("empty", "documents/empty", "empty/of/all/files", f"documents/all/{VERSION}"):
        (root / folder).mkdir(parents=True)
    for name in NAMED_LIKE_OURS[:2]:
        _write(own_partition / name, json.dumps(MANIFEST))
    _write(own_partition / "jan" / "thesis.txt", "in a partition's folder")
    _write(own_artifact / "notes" / "thesis.txt", "in an artifact's folder")
    shutil.copytree(own_artifact, own_partition / f"{own_artifact.name}-backup")
    shutil.copytree(own_artifact, root / "backup" / "of" / own_artifact.name)
    for link in ("link", "documents/link", "documents/mine/link", ".hidden/link"):
        (root / link).symlink_to(outside / "notes", target_is_directory=True)
    (own_partition / "link").symlink_to(outside / "notes" / "a", target_is_directory=True)
    (own_artifact / "link").symlink_to(outside / "notes" / "a", target_is_directory=True)
    (root / "mine" / "link.txt").symlink_to(outside / "notes" / "thesis.txt")
    return set(every_path(root)) - before | set(every_path(outside))


def every_path(folder: Path) -> list[Path]:
    """Every file, folder and link in a folder, at any depth; links are not followed."""
    return [Path(above, name) for above, folders, files in os.walk(folder) for name in [*folders, *files]]


def fingerprints(paths: set[Path]) -> dict[Path, str]:
    """What each path is now: the hash of a file, the target of a link, a folder, or nothing."""
    return {path: _fingerprint(path) for path in sorted(paths)}


def _fingerprint(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if path.is_dir():
        return "folder"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "nothing"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
