"""What every executor must do: inherit the class in a test module, and say which executor is meant."""

import time
from contextlib import closing
from pathlib import Path

import pytest

from influence_assets.engine.bring_up import Failure, Finished, Result, bring_up_to_date
from influence_assets.engine.executor import Computed, Executor, Task, compute_task
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.errors import DamagedError, InputError
from influence_assets.study import Study
from tests.engine import small_assets
from tests.engine.small_assets import SLOW_SECONDS, noted

MANY = 16
"""Tasks enough that none but an executor that goes on by itself begins all of them within a few seconds."""


class ExecutorContract:
    """The tests; a subclass overrides `executor`, and sees to it that a study can name it."""

    @pytest.fixture
    def executor(self) -> Executor:
        raise NotImplementedError

    def test_every_task_is_computed_once_and_stands_when_it_is_reported(self, executor, tmp_path):
        study = small_assets.lay_out(tmp_path, {f"{n}.txt": "a" * n for n in range(1, 6)})
        tasks = tasks_of(study, "letters")
        reported = {}
        for task, result in executor.run(tasks, compute_task):
            ((_, partition),) = task.places
            ((computed),) = result
            assert isinstance(computed, Computed)
            assert computed.is_new
            artifact = small_assets.workspace(study).store.open(computed.key)
            assert artifact.manifest.run_id == "the run"
            reported[partition.shard] = artifact.table("letters").collect().item()
            assert task in tasks
        assert reported == {f"{n}.txt": n for n in range(1, 6)}
        begun = [place for what, place in noted(study) if what == "begins"]
        assert sorted(begun) == [f"letters[{n}.txt]" for n in range(1, 6)]

    def test_what_stands_already_is_reported_as_it_is(self, executor, tmp_path):
        study = small_assets.lay_out(tmp_path, {"a.txt": "a"})
        (task,) = tasks_of(study, "letters")
        compute_task(task)
        ((_, (computed,)),) = executor.run([task], compute_task)
        assert not computed.is_new
        assert len(noted(study)) == 2

    def test_without_tasks_there_is_nothing_to_do(self, executor):
        assert list(executor.run([], compute_task)) == []

    def test_what_a_task_raises_is_its_own_result(self, executor, tmp_path):
        texts = {"a.txt": "a", "b.txt": "broken", "c.txt": "unusable", "d.txt": "d"}
        study = small_assets.lay_out(tmp_path, texts)
        results = results_of(executor, tasks_of(study, "letters"))
        assert type(results["b.txt"]) is ValueError
        assert str(results["b.txt"]) == "b.txt says so"
        unusable = results["c.txt"]
        assert type(unusable) is InputError
        assert (unusable.where, unusable.problem, unusable.remedy) == (
            "c.txt, row 1", "says so", "Write something else.",
        )  # fmt: skip
        for shard in ("a.txt", "d.txt"):
            (computed,) = results[shard]
            assert computed.is_new

    def test_damage_is_reported_with_what_is_damaged(self, executor, tmp_path):
        study = small_assets.lay_out(tmp_path, {"a.txt": "a", "b.txt": "b"})
        results_of(executor, tasks_of(study, "letters"))
        folder = damage(study, "letters", "a.txt")
        results = results_of(executor, tasks_of(study, "doubled"))
        assert type(results["a.txt"]) is DamagedError
        assert (results["a.txt"].folder, results["a.txt"].files) == (folder, ("letters.parquet",))
        assert [computed.is_new for computed in results["b.txt"]] == [True]

    def test_an_interrupt_is_no_result_and_ends_the_work(self, executor, tmp_path):
        texts = {"a.txt": "a", "b.txt": "interrupt"} | {f"slow {n}.txt": "slow" for n in range(MANY)}
        study = small_assets.lay_out(tmp_path, texts)
        with pytest.raises(KeyboardInterrupt):
            results_of(executor, tasks_of(study, "letters"))
        assert_nothing_goes_on(study)

    def test_once_it_is_closed_nothing_is_begun(self, executor, tmp_path):
        study = small_assets.lay_out(tmp_path, {"a.txt": "a"} | {f"slow {n}.txt": "slow" for n in range(MANY)})
        with closing(executor.run(tasks_of(study, "letters"), compute_task)) as results:
            next(iter(results))
        assert_nothing_goes_on(study)

    def test_a_run_computes_everything_in_the_order_of_dependence(self, executor, tmp_path):
        study = small_assets.lay_out(tmp_path, {f"{n}.txt": "a" * n for n in range(1, 6)}, executor.name)
        result = Result()
        finished = [event for event in run(study, result) if isinstance(event, Finished)]
        assert len(finished) == len(result.computed) == 11
        assert (result.failures, result.left_out, result.repaired) == ([], [], [])
        assert total(study) == 2 * sum(range(1, 6))
        order = noted(study)
        for n in range(1, 6):
            ended = order.index(("ends", f"letters[{n}.txt]"))
            assert ended < order.index(("begins", f"doubled[{n}.txt]"))
            assert order.index(("ends", f"doubled[{n}.txt]")) < order.index(("begins", "total"))
        again = Result()
        list(run(study, again))
        assert again.computed == []
        assert noted(study) == order

    def test_a_run_computes_what_the_default_computes(self, executor, tmp_path):
        texts = {f"{n}.txt": "a" * n for n in range(1, 4)}
        stored = []
        for folder, name in (("by it", executor.name), ("by the default", "in_process")):
            study = small_assets.lay_out(tmp_path / folder, texts, name)
            list(run(study, Result()))
            store = small_assets.workspace(study).store
            artifacts = [store.open(manifest.key) for manifest in store.manifests()]
            tables = {a.key: a.table(table).collect().rows() for a in artifacts for table in a.manifest.rows}
            stored.append((tables, {a.key: a.manifest.inputs for a in artifacts}))
        assert stored[0] == stored[1]
        assert len(stored[0][0]) == 7

    def test_a_failure_stops_nothing_but_what_needs_it(self, executor, tmp_path):
        study = small_assets.lay_out(tmp_path, {"a.txt": "a", "b.txt": "broken", "c.txt": "c"}, executor.name)
        result = Result()
        failed = [event for event in run(study, result) if isinstance(event, Failure)]
        assert [(event.asset.name, event.partition) for event in failed] == [("letters", Partition("b.txt"))]
        assert result.failures == failed
        computed = {(asset.name, partition.shard) for asset, partition in result.computed}
        assert computed == {(asset, shard) for asset in ("letters", "doubled") for shard in ("a.txt", "c.txt")}
        assert set(result.left_out) == {"letters", "doubled", "total"}
        (tmp_path / "corpus" / "b.txt").write_text("bb")
        mended = Result()
        list(run(study, mended))
        assert total(study) == 8
        assert len(mended.computed) == 3

    def test_a_run_mends_what_proves_damaged(self, executor, tmp_path):
        study = small_assets.lay_out(tmp_path, {"a.txt": "a", "b.txt": "b"}, executor.name)
        list(run(study, Result()))
        folder = damage(study, "letters", "a.txt")
        (tmp_path / "store" / "doubled" / quoted_folder(study, "doubled", "a.txt")).rename(tmp_path / "gone")
        result = Result()
        list(run(study, result))
        assert result.repaired == [str(folder)]
        assert {asset.name for asset, _ in result.computed} >= {"letters", "doubled"}
        assert (result.failures, result.left_out) == ([], [])
        assert total(study) == 4


def tasks_of(study: Study, asset: str) -> list[Task]:
    """A task for each shard of an asset."""
    shards = list(small_assets.workspace(study).shards)
    return [
        Task(study, small_assets.load_graph, ((asset, Partition(shard)),), "newest", False, "the run", len(shards) - n)
        for n, shard in enumerate(shards)
    ]


def results_of(executor: Executor, tasks: list[Task]):
    """The result of each task, by its shard."""
    return {task.places[0][1].shard: result for task, result in executor.run(tasks, compute_task)}


def run(study: Study, result: Result):
    """Bring the study up to date by the executor that it names."""
    return bring_up_to_date(Versions(small_assets.workspace(study), "published"), _Unwatched(), result)


def total(study: Study) -> int:
    artifact = opened(study, "total", None)
    return artifact.table("total").collect().item()


def opened(study: Study, asset: str, shard: str | None):
    versions = Versions(small_assets.workspace(study))
    key = versions.key(versions.workspace.graph[asset], Partition(shard))
    assert key is not None
    return versions.workspace.store.open(key)


def quoted_folder(study: Study, asset: str, shard: str) -> Path:
    """An artifact's folder below its asset's."""
    folder = opened(study, asset, shard).folder
    return folder.relative_to(Path(study.storage.root) / asset)


def damage(study: Study, asset: str, shard: str) -> Path:
    """Flip a bit of an artifact's table; returns the artifact's folder."""
    folder = opened(study, asset, shard).folder
    file = folder / f"{asset}.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return folder


def assert_nothing_goes_on(study: Study) -> None:
    """Not all tasks were begun, what was begun has ended, and nothing more is."""
    order = noted(study)
    begun = [place for what, place in order if what == "begins"]
    assert len(begun) < MANY
    time.sleep(1.5 * SLOW_SECONDS)
    assert noted(study) == order


class _Unwatched:
    def begins(self, *_: object) -> None:
        pass

    def progress(self, *_: object) -> None:
        pass
