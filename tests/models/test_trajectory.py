import pytest
import torch
from safetensors.torch import load_file

from influence_assets.models.replay import current_state
from influence_assets.models.trajectory import checkpoints, learning_rates, record
from tests.models import small_runs


class InterruptionError(Exception):
    pass


def states():
    """The weights before every step, and the last state."""
    run, before = small_runs.run(), []
    while run.step < run.steps:
        before.append(current_state(run).θ)
        run.take_step()
    return before, current_state(run)


def test_weights_are_those_before_the_steps_and_the_moments_the_last(tmp_path):
    before, last = states()
    recorded = record(small_runs.run(), [0, 3, 5], tmp_path, lambda _done, _all: None)
    for step, path in recorded.weights.items():
        stored = load_file(path)
        assert all(torch.equal(stored[name], weight) for name, weight in before[step].items())
    assert all(torch.equal(recorded.last[name], weight) for name, weight in last.θ.items())
    assert all(torch.equal(recorded.v[name], v) for name, v in last.v.items())


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_an_interrupted_recording_goes_on(tmp_path, stop):
    def progress(done, _all):
        if done == stop:
            raise InterruptionError

    before, last = states()
    with pytest.raises(InterruptionError):
        record(small_runs.run(), [0, 3, 5], tmp_path, progress)
    done = []
    recorded = record(small_runs.run(), [0, 3, 5], tmp_path, lambda step, _all: done.append(step))
    assert done[0] == (4 if stop >= 3 else 1)
    assert all(torch.equal(load_file(recorded.weights[3])[n], weight) for n, weight in before[3].items())
    assert all(torch.equal(recorded.last[name], weight) for name, weight in last.θ.items())


def test_a_recording_whose_weights_are_lost_starts_over(tmp_path):
    recorded = record(small_runs.run(), [0, 3], tmp_path, lambda _done, _all: None)
    recorded.weights[0].unlink()
    done = []
    record(small_runs.run(), [0, 3], tmp_path, lambda step, _all: done.append(step))
    assert done[0] == 1
    assert recorded.weights[0].is_file()


def test_learning_rates_are_those_that_the_steps_take():
    run, taken = small_runs.run(), []
    while run.step < run.steps:
        run.take_step()
        taken.append(run.optimizer.param_groups[0]["lr"])
    assert learning_rates(small_runs.run()) == taken


def test_checkpoints_are_in_the_middle_of_equal_sums():
    rates = [1.0, 1.0, 2.0, 2.0, 1.0, 1.0]
    assert [(each.step, each.rates) for each in checkpoints(rates, 2)] == [(2, 4.0), (4, 4.0)]
    assert [(each.step, each.rates) for each in checkpoints(rates, 1)] == [(3, 8.0)]


def test_as_many_checkpoints_as_steps_are_the_steps():
    assert [(each.step, each.rates) for each in checkpoints([0.5] * 7, 7)] == [(step, 0.5) for step in range(7)]


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_checkpoints_stand_for_all_of_the_run(count):
    rates = learning_rates(small_runs.run())
    found = checkpoints(rates, count)
    assert sum(each.rates for each in found) == pytest.approx(sum(rates))
    assert len({each.step for each in found}) == len(found) <= min(count, len(rates))
