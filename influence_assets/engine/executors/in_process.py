"""Computes one task after the other in this process."""

from collections.abc import Callable, Iterator, Sequence

from influence_assets.engine.executor import Computed, Executor, Task, TaskResult


class InProcess(Executor):
    """The default executor: the model is loaded once, and two torch processes do not compete for the same cores."""

    @property
    def name(self) -> str:
        """The executor's name."""
        return "in_process"

    def run(
        self, tasks: Sequence[Task], compute_here: Callable[[Task], Sequence[Computed]]
    ) -> Iterator[tuple[Task, TaskResult]]:
        """Compute every task in order."""
        for task in tasks:
            try:
                result: TaskResult = compute_here(task)
            except Exception as error:  # noqa: BLE001  # whatever a task raises is its own failure
                result = error
            yield task, result


EXECUTOR = InProcess()
