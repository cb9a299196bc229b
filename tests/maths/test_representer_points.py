"""Representer points against the objective as autograd sees it, and against sums over single tokens."""

import pytest
import torch

from influence_assets.maths import representer_points
from influence_assets.maths.points import QueryPoints, TrainingPoints
from influence_assets.maths.representer_points import logits, refitted_head, values_of_parts

TOKENS, WORDS, WIDTH = 40, 6, 4


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


STATES, HEAD = 2 * random(TOKENS, WIDTH), random(WORDS, WIDTH, seed=1)
NEW = random(5, WIDTH, seed=2)


def blocks():
    return STATES.split(13)


def losses(W, states=STATES):
    p = (states @ HEAD.T).softmax(1)
    return -(p * (states @ W.T).log_softmax(1)).sum(1)


def objective(W, decay):
    return losses(W).mean() + decay * W.square().sum()


def newton(decay):
    """The minimum by Newton's method with the dense second derivative, halving steps that raise the objective."""
    W = HEAD.clone()
    for _ in range(50):
        g = torch.func.grad(objective)(W, decay).flatten()
        H = torch.func.hessian(objective)(W, decay).reshape(W.numel(), W.numel())
        step = torch.linalg.solve(H, -g).view_as(W)
        while objective(W + step, decay) > objective(W, decay) + 1e-14:
            step = step / 2
        W = W + step
    return W


def representer_coefficients(W, decay):
    """α_i = −(1/2λn) ∂ℓ_i/∂Φ_i, with the derivative from autograd."""
    Φ = (STATES @ W.T).requires_grad_()
    p = (STATES @ HEAD.T).softmax(1)
    (slope,) = torch.autograd.grad(-(p * Φ.log_softmax(1)).sum(), Φ)
    return -slope / (2 * decay * TOKENS)


@pytest.mark.parametrize("decay", [1e-4, 3e-3, 0.3])
@pytest.mark.parametrize("logits_at_once", [50, 2**22])
def test_the_head_is_fitted_to_the_minimum(decay, logits_at_once, monkeypatch):
    monkeypatch.setattr(representer_points, "_LOGITS_AT_ONCE", {"cpu": logits_at_once})
    found = refitted_head(blocks, HEAD, decay)
    torch.testing.assert_close(found.weight, newton(decay), rtol=1e-7, atol=1e-8)
    assert found.error <= 1e-10


@pytest.mark.parametrize("decay", [1e-4, 3e-3, 0.3])
def test_the_tokens_reproduce_the_logits(decay):
    W = refitted_head(blocks, HEAD, decay).weight
    α = representer_coefficients(W, decay)
    torch.testing.assert_close(sum(torch.outer(a, f) for a, f in zip(α, STATES, strict=True)), W, rtol=0, atol=1e-8)
    torch.testing.assert_close(α @ torch.ones(WORDS, dtype=torch.float64), torch.zeros(TOKENS).double())
    torch.testing.assert_close((NEW @ STATES.T) @ α, NEW @ W.T, rtol=0, atol=1e-8)


def test_without_decay_the_model_says_the_same_and_with_much_nothing():
    fitted = [refitted_head(blocks, HEAD, decay, tolerance=1e-6).weight for decay in (1e-9, 1e4)]
    p, little, much = ((NEW @ W.T).softmax(1) for W in (HEAD, *fitted))
    torch.testing.assert_close(little, p, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(much, torch.full_like(p, 1 / WORDS), rtol=1e-3, atol=0)


def test_the_error_is_how_far_the_sum_over_tokens_is_from_the_head():
    found = refitted_head(blocks, HEAD, 0.01, tolerance=1e-2)
    summed = representer_coefficients(found.weight, 0.01).T @ STATES
    assert 1e-12 < found.error <= 1e-2
    assert float((found.weight - summed).norm() / found.weight.norm()) == pytest.approx(found.error, rel=1e-6)


def test_products_count_how_often_the_states_are_read():
    reads = []

    def counted():
        reads.append(1)
        return blocks()

    assert refitted_head(counted, HEAD, 0.01).products == len(reads)


def test_what_the_precision_does_not_allow_is_refused():
    with pytest.raises(ArithmeticError, match="only stationary to"):
        refitted_head(lambda: [STATES.float()], HEAD.float(), 1e-3, tolerance=1e-14)


ASKED = QueryPoints(NEW, torch.tensor([0, 3, 3, 5, 0]), torch.tensor([0, 0, 1, 1, 1]), 2)


@pytest.mark.parametrize("logits_at_once", [7, 2**22])
def test_values_are_the_sums_over_single_tokens(logits_at_once, monkeypatch):
    monkeypatch.setattr(representer_points, "_LOGITS_AT_ONCE", {"cpu": logits_at_once})
    decay = 0.01
    W = refitted_head(blocks, HEAD, decay).weight
    α = representer_coefficients(W, decay)
    training = TrainingPoints(blocks, torch.zeros(TOKENS).long(), torch.arange(TOKENS) % 7, 8)
    expected = torch.zeros(2, 8, dtype=torch.float64)
    for i in range(TOKENS):
        for f, y, query in zip(NEW, ASKED.labels, ASKED.queries, strict=True):
            expected[query, training.parts[i]] += α[i, y] * (STATES[i] @ f)
    found = values_of_parts(training, ASKED, (W, HEAD), decay)
    torch.testing.assert_close(found, expected)
    single = (NEW @ W.T)[torch.arange(5), ASKED.labels]
    torch.testing.assert_close(logits(ASKED, W), torch.stack([single[:2].sum(), single[2:].sum()]))
    torch.testing.assert_close(found.sum(1), logits(ASKED, W), rtol=0, atol=1e-8)


def test_states_that_are_missing_are_refused():
    training = TrainingPoints(blocks, torch.zeros(41).long(), torch.zeros(41).long(), 1)
    with pytest.raises(ValueError, match="41 tokens and 40 states"):
        values_of_parts(training, ASKED, (HEAD, HEAD), 0.1)
