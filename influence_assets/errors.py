"""The errors that a person can mend: each says where, what is wrong and what to do."""

from collections.abc import Sequence
from pathlib import Path


class InputError(Exception):
    """Something that the user brought cannot be used as it is.

    Args:
        where: the file and row, or the study and key, that the problem is in.
        problem: what is wrong there, in one clause.
        remedy: what to do about it, in one sentence.
    """

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        self.where = where
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{where}: {problem}. {remedy}")

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str, str]]:
        """Keep the three parts when the error crosses a process boundary."""
        return (type(self), (self.where, self.problem, self.remedy))


class StorageError(Exception):
    """What stands in the store is missing, damaged or belongs to something else."""


class DamagedError(StorageError):
    """What was read from an artifact is not what was written: a flipped bit, a torn chunk, a file cut off or lost.

    Args:
        folder: the artifact's folder.
        files: what is damaged, by path inside the folder; empty where that cannot be told.
        problem: what is wrong with it, in one clause.
    """

    def __init__(self, folder: Path, files: Sequence[str], problem: str) -> None:
        self.folder = folder
        self.files = tuple(files)
        self.problem = problem
        where = folder / self.files[0] if self.files else folder
        others = f" (and {len(self.files) - 1} more of its files)" if len(self.files) > 1 else ""
        super().__init__(f"{where}{others}: {problem}. `influence run` computes it again.")

    def __reduce__(self) -> tuple[type["DamagedError"], tuple[Path, tuple[str, ...], str]]:
        """Keep the three parts when the error crosses a process boundary."""
        return (type(self), (self.folder, self.files, self.problem))
