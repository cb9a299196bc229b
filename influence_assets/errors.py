"""The errors that a user can correct: each says where, what is wrong, and what to do."""

from collections.abc import Sequence
from pathlib import Path

from influence_assets.urls import without_credentials


class InputError(Exception):
    """Something that the user provided cannot be used as it is.

    Args:
        where: the file and row, or the study and key, with the problem. Credentials in URLs are left out.
        problem: what is wrong, in one clause; the same.
        remedy: what to do about it, in one sentence.
    """

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        self.where, self.problem = without_credentials(where), without_credentials(problem)
        self.remedy = remedy
        super().__init__(f"{self.where}: {self.problem}. {remedy}")

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str, str]]:
        """Keep the three parts when the error crosses a process boundary."""
        return (type(self), (self.where, self.problem, self.remedy))


class StorageError(Exception):
    """Something in the store is missing, damaged or belongs to something else."""


class DamagedError(StorageError):
    """An artifact does not hold what was written: a flipped bit, a torn chunk, a truncated or lost file.

    Args:
        folder: the artifact's folder.
        files: the damaged files, by path inside the folder; empty if they are not known.
        problem: what is wrong with them, in one clause.
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
