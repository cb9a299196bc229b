"""A study that can be begun anew in a moment, in memory where that is possible, and a small disk."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.changing import Corpus, Ground

MEMORY = Path("/dev/shm")  # what is killed with its process is the same on any file system


@pytest.fixture(scope="session")
def ground() -> Iterator[Ground]:
    """Where studies stand, one after the other."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Ground(Path(folder))


@pytest.fixture
def corpus(ground: Ground) -> Corpus:
    """The corpus of a study on the ground, all of it computed."""
    return ground.begin()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many megabytes; unmounted in the end."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(megabytes: int) -> Path:
        options = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        mounted = subprocess.run(options, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)
