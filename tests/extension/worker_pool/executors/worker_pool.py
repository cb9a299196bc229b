"""Computes tasks in two processes of their own. All that an executor of one's own takes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed, wait
from multiprocessing import get_context

from influence_assets.engine.executor import Computed, Executor, Task, TaskResult, compute_task


class WorkerPool(Executor):
    """Keeps its processes from one stage to the next: each imports torch once."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    @property
    def name(self) -> str:
        """The executor's name."""
        return "worker_pool"

    def run(
        self,
        tasks: Sequence[Task],
        compute_here: Callable[[Task], Sequence[Computed]],
    ) -> Iterator[tuple[Task, TaskResult]]:
        """Compute tasks as processes become free."""
        if self._pool is None:
            # Not forked: threads of torch, polars and DuckDB do not survive it.
            self._pool = ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn"))
        futures = {self._pool.submit(compute_task, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                error = future.exception()
                if error is None:
                    yield futures[future], future.result()
                elif isinstance(error, Exception):
                    yield futures[future], error
                else:
                    raise error
        finally:
            for future in futures:
                future.cancel()
            wait(futures)


EXECUTOR = WorkerPool()
