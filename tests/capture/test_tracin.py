"""TracIn against autograd, one sequence at a time, and against training that leaves a sequence out."""

import numpy as np
import pytest
import torch

from influence_assets.capture.batches import Parts
from influence_assets.capture.runner import Runner
from influence_assets.capture.tracin import tracin
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.oracles import gradients as oracle

RATES, TOKENS = (0.3, 0.2), 41


def loading(model, seeds=(0, 1)):
    """Checkpoints of the model: the weights that it has with other seeds."""

    def load(seed):
        def replace():
            model.load_state_dict(cases.gpt2(seed=seed).state_dict())

        return replace

    return [(load(seed), rate) for seed, rate in zip(seeds, RATES, strict=True)]


@pytest.fixture
def runner():
    model = cases.gpt2()
    return Runner(model, select_modules(model, "mlp"), 4)


def test_scores_are_sums_of_inner_products_over_checkpoints(runner):
    sequences, queries = cases.sequences(5), cases.queries(3)
    expected = torch.zeros(3, 5, dtype=torch.float64)
    for load, rate in loading(runner.model):
        load()
        f, _ = oracle.gradients(runner.model, runner.modules, queries, sign=+1)
        L, _ = oracle.gradients(runner.model, runner.modules, sequences, sign=-1)
        products = [torch.einsum("qoi,soi->qs", f[m.name], L[m.name]) for m in runner.modules]
        expected -= rate / TOKENS * torch.stack(products).sum(0)
    found, parts = tracin(runner, sequences, queries, loading(runner.model), TOKENS)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-9, atol=1e-12)
    assert parts is None


def test_parts_sum_to_sequences_and_are_those_of_each_checkpoint(runner):
    sequences, queries = cases.sequences(3, ragged=False), cases.queries(2)
    parts = Parts(*(np.array(each, np.int64) for each in ([0, 0, 2, 2, 2], [0, 5, 0, 2, 8], [5, 12, 2, 8, 12])))
    found, of_parts = tracin(runner, sequences, queries, loading(runner.model), TOKENS, parts)
    np.testing.assert_allclose(of_parts[:, :2].sum(1), found[:, 0], rtol=1e-9)
    np.testing.assert_allclose(of_parts[:, 2:].sum(1), found[:, 2], rtol=1e-9)
    one_by_one = [tracin(runner, sequences, queries, [each], TOKENS, parts)[1] for each in loading(runner.model)]
    np.testing.assert_allclose(of_parts, sum(one_by_one), rtol=1e-9, atol=1e-14)


def test_a_score_is_what_sgd_gains_by_the_sequence(runner):
    """Three steps of SGD on all sequences with a small rate, with and without the loss of one."""
    sequences, queries, rate = cases.sequences(4), cases.queries(2), 1e-6
    tokens = int(sequences.counted_tokens().sum())
    modules, start = runner.modules, {n: p.clone() for n, p in runner.model.state_dict().items()}

    def trained(kept):
        runner.model.load_state_dict(start)
        for _ in range(3):
            with oracle.Unfrozen(modules):
                total = 0
                for row in kept:
                    text = torch.from_numpy(sequences.tokens[row, : sequences.lengths[row]].astype(np.int64))
                    total = total - oracle.log_likelihood(runner.model, text, 1) / tokens
                parameters = [p for module in modules for p in module.module.parameters(recurse=False)]
                gradients = torch.autograd.grad(total, parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter -= rate * gradient
        return oracle.gradients(runner.model, modules, queries, sign=+1)[1]

    gained = trained(range(4)) - trained([0, 1, 3])
    runner.model.load_state_dict(start)
    found, _ = tracin(runner, sequences, queries, [(lambda: None, 3 * rate)], tokens)
    np.testing.assert_allclose(found[:, 2], gained.numpy(), rtol=1e-3)
