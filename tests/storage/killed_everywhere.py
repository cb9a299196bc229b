"""Do one thing to copies of a store again and again, each time killed one step later, until it gets to its end.

A step is a file opened for writing, renamed or removed, or a folder made or removed. Run as
`python -m tests.storage.killed_everywhere TEMPLATE FOLDER DEED`; prints how many copies there are in the folder.
"""

import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path

from influence_assets.storage.artifacts import ArtifactStore
from tests.storage.stored import KEY, store_in, write


def write_as_runs_do(store: ArtifactStore) -> None:
    """Write the artifact under its partition's lock, whose file is the first in the partition's folder."""
    with store.partition_lock(KEY):
        write(store)


def clear(store: ArtifactStore) -> None:
    """Remove the artifact and every folder that this leaves empty."""
    with store.exclusive_lock():
        store.remove(KEY)
        store.remove_empty_folders()


DEEDS = {
    "write": write,
    "mark": lambda store: store.mark_damaged(store.place(KEY), ["sequences.parquet"], "is cut off"),
    "remove": lambda store: store.remove(KEY),
    "reduce": lambda store: store.reduce_to_record(KEY),
    "write as runs do": write_as_runs_do,
    "clear": clear,
}
_STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}


def kill_at(step: int) -> None:
    """Kill this process just before the step of that number, counted from now."""
    steps = count()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in _STEPS) and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main(template: Path, folder: Path, deed: str) -> None:
    for step in count():
        root = folder / f"{step:03}"
        shutil.copytree(template, root, symlinks=True)
        child = os.fork()
        if not child:
            store = store_in(root)
            kill_at(step)
            DEEDS[deed](store)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            print(step + 1)
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
