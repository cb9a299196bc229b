"""Derivatives through training against finite differences of runs that are trained again."""

import pytest
import torch
from torch import nn

from influence_assets.maths.adamw import adamw_step, clipping_factor
from influence_assets.models import replay
from influence_assets.models.metagradients import ADAMW, metagradients
from influence_assets.models.token_losses import token_losses
from influence_assets.models.training_run import IGNORED, LARGEST_GRADIENT_NORM
from tests.models import small_runs


def trained_with(weights, recipe=small_runs.RECIPE):
    """f of every query after training with `weights` [sequence, token] on the losses, by torch's own optimiser."""
    run = small_runs.run(recipe)
    optimizer = torch.optim.AdamW(run.parameters.values(), betas=ADAMW.betas, weight_decay=ADAMW.weight_decay)
    losses = token_losses(small_runs.model())
    while run.step < run.steps:
        rows = run.rows_of_batch()
        labels = run.labels[rows]
        optimizer.param_groups[0]["lr"] = run.rate
        optimizer.zero_grad()
        total = (weights[rows] * losses(run.parameters, run.tokens[rows], labels)).sum()
        (total / int((labels[:, 1:] != IGNORED).sum())).backward()
        nn.utils.clip_grad_norm_(run.parameters.values(), LARGEST_GRADIENT_NORM)
        optimizer.step()
        run.step += 1
    return small_runs.log_probabilities({n: p.detach() for n, p in run.parameters.items()})


def ones():
    return torch.ones(small_runs.part().tokens.shape, dtype=torch.float64)


def difference(place, recipe, step=1e-5):
    """The central difference of f by the weight of `place`, a token or all of a sequence's, to fourth order."""

    def at(shift):
        weights = ones()
        weights[place] += shift
        return trained_with(weights, recipe)

    return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    run = small_runs.run()
    return metagradients(run, token_losses(run.model), small_runs.queries(), tmp_path_factory.mktemp("replay"))


def test_log_probabilities_are_those_of_the_trained_model(found):
    torch.testing.assert_close(torch.from_numpy(found.log_probabilities), trained_with(ones()), rtol=1e-9, atol=0)


@pytest.mark.parametrize("sequence", range(len(small_runs.part().tokens)))
def test_sequences_agree_with_finite_differences(found, sequence):
    expected = difference(sequence, small_runs.RECIPE)
    torch.testing.assert_close(torch.from_numpy(found.values[:, sequence].sum(1)), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("place", [(0, 1), (1, 3), (4, 2)])
def test_tokens_agree_with_finite_differences(found, place):
    expected = difference(place, small_runs.RECIPE)
    torch.testing.assert_close(torch.from_numpy(found.values[(slice(None), *place)]), expected, rtol=1e-5, atol=1e-9)


def test_what_carries_no_loss_has_no_effect(found):
    run = small_runs.run()
    assert (found.values[:, 1, 2] == 0).all()
    assert (found.values[:, run.labels.numpy() == IGNORED] == 0).all()
    assert (found.values[:, :, 0] == 0).all()


def test_an_interrupted_replay_goes_on(found, tmp_path):
    class InterruptionError(Exception):
        pass

    for stop in (4, 14):  # of 18: in the replay forwards, and on the way back

        def progress(done, _all, stop=stop):
            if done == stop:
                raise InterruptionError

        run = small_runs.run()
        with pytest.raises(InterruptionError):
            metagradients(run, token_losses(run.model), small_runs.queries(), tmp_path, progress)
    run, steps = small_runs.run(), []
    again = metagradients(
        run, token_losses(run.model), small_runs.queries(), tmp_path, lambda done, _all: steps.append(done)
    )
    assert (again.values == found.values).all()
    assert steps[0] > 1
    assert steps[-1] == 3 * run.steps


def test_the_functional_step_is_that_of_the_run():
    """Some steps are clipped, and some are not, so that derivatives above are of both."""
    run, factors = small_runs.run(), []
    losses = token_losses(run.model)
    while run.step < run.steps:
        before = replay.current_state(run)
        rows, rate = run.rows_of_batch(), run.rate
        total = losses(run.parameters, run.tokens[rows], run.labels[rows]).sum()
        targets = int((run.labels[rows][:, 1:] != IGNORED).sum())
        g = dict(zip(run.parameters, torch.autograd.grad(total / targets, list(run.parameters.values())), strict=True))
        factor = clipping_factor(g, LARGEST_GRADIENT_NORM)
        factors.append(float(factor))
        expected = adamw_step(before, {name: each * factor for name, each in g.items()}, rate, ADAMW)
        run.take_step()
        after = replay.current_state(run)
        assert after.count == expected.count
        for letter in "θmv":
            for name, value in getattr(expected, letter).items():
                torch.testing.assert_close(getattr(after, letter)[name], value, rtol=1e-9, atol=1e-14)
    assert min(factors) < 0.99
    assert max(factors) == 1


def test_its_weights_are_those_of_the_run(found):
    run = small_runs.run()
    while run.step < run.steps:
        run.take_step()
    assert all(torch.equal(found.weights[name], each) for name, each in run.parameters.items())
