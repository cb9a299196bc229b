"""Parts as an installed package brings them: a module, and an entry point that names it."""

import shutil
from pathlib import Path


def install(folder: Path, room: str, file: Path) -> Path:
    """Lay out a package that holds a copy of a part's file; returns the folder to be put on Python's path.

    Args:
        folder: where the package is laid out.
        room: the full name of the room, such as `influence_assets.methods`.
        file: the part's file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module = f"made_up_{file.stem}"
    shutil.copy(file, folder / f"{module}.py")
    described = folder / f"{module}-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(f"[{room}]\n{file.stem} = {module}\n")
    return folder
