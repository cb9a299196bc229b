"""`influence evaluate`: the plan first, then the models, then the board."""

import pytest

from influence_assets.cli.commands.evaluate import Due, seconds_of
from influence_assets.engine.partitions import Partition
from influence_assets.errors import InputError
from tests import studies
from tests.commanding import influence

TRAINED = {"layers": 1, "width": 16, "heads": 2, "vocabulary": 300, "epochs": 1, "batch_sequences": 2}


@pytest.fixture
def study(tmp_path):
    path = studies.lay_out(
        tmp_path,
        model={"path": None, "train": TRAINED, "dtype": "float32"},
        evaluation={"subsets": 4, "seeds": 1},
        sequences={"length": 32},
    )
    studies.compute(path)
    return path


def test_it_shows_its_plan_trains_and_prints_the_board(study):
    planned = influence("evaluate", "--plan", "--study", study)
    assert planned.code == 0, planned.err
    assert "4 models, 0 of them trained" in planned.out
    assert "retrained_models: 4 models to train" in planned.out
    finished = influence("evaluate", "--study", study)
    assert finished.code == 0, finished.err
    assert "3 queries, 4 subsets, 1 seed." in finished.out
    for method in ("ekfac", "ekfac_calibrated", "gradient_dot", "bm25", "random"):
        assert f"\n{method} " in finished.out
    again = influence("evaluate", "--study", study)
    assert "4 models, 4 of them trained" in again.out
    assert "to train" not in again.out
    assert influence("run", "--study", study).out.startswith("Nothing to do")


@pytest.mark.slow
def test_a_budget_that_no_model_fits_into_trains_none_and_says_what_is_left(study):
    finished = influence("evaluate", "--budget", "0s", "--study", study)
    assert "4 models are left for another call" in finished.out
    assert finished.code == 1
    assert "judging takes 4" in finished.out


def test_a_budget_is_refused_where_a_method_asks_for_all_models(tmp_path):
    study = studies.lay_out(
        tmp_path, model={"path": None, "train": TRAINED}, methods=["ekfac", "datamodels"], sequences={"length": 32}
    )
    refused = influence("evaluate", "--budget", "1h", "--study", study)
    assert refused.code == 1
    assert "Leave datamodels out of `methods` until they are trained" in refused.error
    assert not list((study.parent / "store").glob("documents/*"))


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("2h", 7200), ("45s", 45), (" 1.5h", 5400)])
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["90", "h", "-1h", "1d", ""])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(InputError, match="is not a duration"):
        seconds_of(text)


def test_what_fits_into_a_budget_is_taken_in_order():
    first, second = ([Partition(name=f"{name}{n}") for n in range(3)] for name in "ab")
    due = Due({"a": first, "b": second}, {"a": 10.0, "b": 3.0}, frozenset("ab"))
    assert due.fitting(None) == {"a": first, "b": second}
    assert due.fitting(25) == {"a": first[:2], "b": second[:1]}
    assert due.fitting(2) == {}
    unmeasured = Due(due.partitions, due.seconds, frozenset())
    assert unmeasured.fitting(1000) == {"a": first[:1]}
    assert unmeasured.fitting(None) == {"a": first, "b": second}


@pytest.mark.slow
def test_a_model_that_was_brought_is_refused_before_anything_is_trained(tmp_path):
    study = studies.lay_out(tmp_path)
    finished = influence("evaluate", "--study", study)
    assert finished.code == 1
    assert "names a model that the study does not train" in finished.err + finished.out
