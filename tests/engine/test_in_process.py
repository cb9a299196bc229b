"""The default executor keeps the contract; and what an executor is given can be sent to another process."""

import pickle

import pytest

from influence_assets.engine.executor import compute_task, executor_of
from influence_assets.engine.executors.in_process import EXECUTOR
from influence_assets.errors import InputError
from tests.engine import small_assets
from tests.engine.executor_contract import ExecutorContract, tasks_of


class TestInProcess(ExecutorContract):
    @pytest.fixture
    def executor(self):
        return EXECUTOR

    def test_tasks_are_begun_in_their_order_and_not_after_an_interrupt(self, executor, tmp_path):
        texts = {f"{n}.txt": "interrupt" if n == 3 else "a" for n in range(6)}
        study = small_assets.lay_out(tmp_path, texts)
        with pytest.raises(KeyboardInterrupt):
            list(executor.run(tasks_of(study, "letters"), compute_task))
        begun = [place for what, place in small_assets.noted(study) if what == "begins"]
        assert begun == [f"letters[{n}.txt]" for n in range(4)]


def test_a_task_and_its_result_can_be_pickled(tmp_path):
    (task,) = tasks_of(small_assets.lay_out(tmp_path, {"a.txt": "a"}), "letters")
    copy = pickle.loads(pickle.dumps(task))
    assert copy == task
    computed = compute_task(copy)
    assert pickle.loads(pickle.dumps(computed)) == computed


def test_an_executor_that_there_is_not_is_refused_with_those_that_there_are(tmp_path):
    study = small_assets.lay_out(tmp_path, {"a.txt": "a"}, "ray")
    with pytest.raises(InputError) as refused:
        executor_of(study)
    assert str(refused.value) == "compute.executor: 'ray' is not known. There are in_process."
