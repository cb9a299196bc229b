"""The errors that a person can mend: each says where, what is wrong and what to do."""


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
