"""In-run Shapley values against subsets that are enumerated, and against what the run comes to."""

from itertools import combinations
from math import comb

import pytest
import torch
from torch.autograd.functional import hessian

from influence_assets.models import replay
from influence_assets.models.in_run_shapley import adamw_values, sgd_values
from influence_assets.models.metagradients import ADAMW
from influence_assets.models.token_losses import completion_gradients, leaves_of, token_losses, twice_differentiable
from influence_assets.models.training_run import IGNORED, LARGEST_GRADIENT_NORM
from tests.models import small_runs

RECIPE = small_runs.RECIPE.model_copy(update={"epochs": 1, "batch_sequences": 4})


def flat(weights):
    return torch.cat([each.flatten() for each in weights.values()])


def as_weights(vector, like):
    parts = vector.split([each.numel() for each in like.values()])
    return {name: part.view_as(like[name]) for name, part in zip(like, parts, strict=True)}


def sequence_gradients(run, rows, weights):
    """∇ of each sequence's loss, over the tokens of the batch that carry one, [sequence, weight]."""
    leaves, losses = leaves_of(weights), token_losses(small_runs.model())
    targets = int((run.labels[rows][:, 1:] != IGNORED).sum())
    of_rows = []
    for row in rows:
        loss = losses(leaves, run.tokens[row][None], run.labels[row][None]).sum() / targets
        of_rows.append(torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(leaves.values()))]))
    return torch.stack(of_rows)


def enumerated(utility, players):
    """Shapley values by their definition."""
    values = []
    for player in range(players):
        others = [each for each in range(players) if each != player]
        total = 0.0
        for size in range(players):
            for subset in combinations(others, size):
                total += (utility([*subset, player]) - utility(subset)) / comb(players - 1, size)
        values.append(total / players)
    return torch.stack(values)


def test_each_step_has_the_shapley_values_of_its_quadratic_utility():
    run = small_runs.run(RECIPE)
    found = torch.from_numpy(sgd_values(run, token_losses(run.model), small_runs.queries()).values).sum(2)
    run = small_runs.run(RECIPE)
    weights = {name: each.detach() for name, each in run.parameters.items()}
    while run.step < run.steps:
        rows, η = run.rows_of_batch(), run.rate
        G = sequence_gradients(run, rows, weights)
        for query, asked in enumerate(zip(*small_runs.queries(), strict=True)):
            at = flat(weights)

            def f(vector, asked=asked, like=weights):
                with twice_differentiable():
                    return small_runs.log_probability(as_weights(vector, like), *asked)

            gradient, H = torch.func.grad(f)(at), hessian(f, at)

            def utility(subset, G=G, η=η, gradient=gradient, H=H):
                moved = -η * G[list(subset)].sum(0)
                return gradient @ moved + moved @ H @ moved / 2

            torch.testing.assert_close(found[query, rows], enumerated(utility, len(rows)), rtol=1e-9, atol=1e-13)
        weights = as_weights(flat(weights) - η * G.sum(0), weights)
        run.step += 1
    assert run.step == 2


def sgd_run(recipe):
    run = small_runs.run(recipe)
    weights = {name: each.detach() for name, each in run.parameters.items()}
    while run.step < run.steps:
        moved = run.rate * sequence_gradients(run, run.rows_of_batch(), weights).sum(0)
        weights = as_weights(flat(weights) - moved, weights)
        run.step += 1
    return small_runs.log_probabilities(weights)


def test_values_sum_to_what_the_run_gains_to_second_order():
    """Halving all rates leaves about an eighth of the difference; without the curvature it would leave a quarter."""
    errors, before = [], small_runs.log_probabilities({n: p.detach() for n, p in small_runs.run().parameters.items()})
    for rate in (1e-3, 5e-4):
        recipe = small_runs.RECIPE.model_copy(update={"learning_rate": rate})
        run = small_runs.run(recipe)
        found = sgd_values(run, token_losses(run.model), small_runs.queries())
        gained = sgd_run(recipe) - before
        torch.testing.assert_close(torch.from_numpy(found.log_probabilities), gained + before, rtol=1e-10, atol=0)
        errors.append((torch.from_numpy(found.values).sum((1, 2)) - gained).abs())
        assert float(errors[-1].max()) < 0.05 * float(gained.abs().max())
    assert (errors[1] < errors[0] / 6).all()


@pytest.fixture(scope="module")
def of_adamw(tmp_path_factory):
    run = small_runs.run()
    return adamw_values(run, token_losses(run.model), small_runs.queries(), tmp_path_factory.mktemp("replay"))


def test_adamws_values_and_decay_sum_to_the_first_order_change_of_the_run(of_adamw):
    run, losses = small_runs.run(), token_losses(small_runs.model())
    moved, decayed = 0, 0
    while run.step < run.steps:
        before, rate = replay.current_state(run), run.rate
        gradients, _ = completion_gradients(losses, leaves_of(before.θ), small_runs.queries())
        V = torch.stack([flat(each) for each in gradients])
        run.take_step()
        moved = moved + V @ (flat(replay.current_state(run).θ) - flat(before.θ))
        decayed = decayed + V @ (-rate * ADAMW.weight_decay * flat(before.θ))
    torch.testing.assert_close(torch.from_numpy(of_adamw.values).sum((1, 2)), moved - decayed, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(
        torch.from_numpy(of_adamw.log_probabilities), small_runs.log_probabilities(replay.current_state(run).θ)
    )


def test_a_sequences_value_is_its_part_of_every_step(of_adamw):
    """By the definition: what the sequence gave to each m̂ that came after it, one step and one sequence at a time."""
    run, losses = small_runs.run(), token_losses(small_runs.model())
    β, given = ADAMW.betas[0], []
    expected = torch.zeros(of_adamw.values.shape[:2], dtype=torch.float64)
    while run.step < run.steps:
        before, rows, rate = replay.current_state(run), run.rows_of_batch(), run.rate
        G = sequence_gradients(run, rows, before.θ)
        given.append((rows, G * min(1.0, LARGEST_GRADIENT_NORM / (float(G.sum(0).norm()) + 1e-6))))
        run.take_step()
        after = replay.current_state(run)
        divisor = (flat(after.v) / (1 - ADAMW.betas[1] ** run.step)).sqrt() + ADAMW.epsilon
        gradients, _ = completion_gradients(losses, leaves_of(before.θ), small_runs.queries())
        direction = torch.stack([flat(each) for each in gradients]) / divisor
        for age, (of_rows, of_sequences) in enumerate(reversed(given)):
            share = (1 - β) * β**age / (1 - β**run.step)
            expected.index_add_(1, of_rows, -rate * share * direction @ of_sequences.T)
    torch.testing.assert_close(torch.from_numpy(of_adamw.values).sum(2), expected, rtol=1e-8, atol=1e-12)
