"""What a model says about a sequence does not depend on what shares its batch, whatever the model's code does."""

import numpy as np
import pytest
import torch

from influence_assets.capture.gauss_newton import gauss_newton_products
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import scores
from influence_assets.maths.ekfac import Eigenbasis
from influence_assets.models.dimensions import length_limits
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.architectures.tiny import tiny
from tests.oracles import gradients as oracle

LIMIT = 8
LONGROPE = "phi3, LongRoPE"


def short_and_long():
    """Sequences of all lengths around the limit, in no order."""
    lengths = np.array([3, 12, LIMIT, LIMIT + 1, 4, 9], np.int32)
    made = cases.sequences(len(lengths), seed=5)
    return cases.Sequences(made.tokens, lengths, made.keys)


def runner(batch_sequences):
    model = tiny(LONGROPE)
    return Runner(model, select_modules(model, "linear"), batch_sequences)


def test_the_model_of_this_file_chooses_by_length():
    """Else nothing here is tested: the same tokens beside a longer sequence give other logits."""
    model = tiny(LONGROPE)
    tokens = torch.from_numpy(short_and_long().tokens[:2].astype("int64"))
    beside = model(input_ids=tokens).logits[0, :3]
    alone = model(input_ids=tokens[:1, :3]).logits[0]
    assert (beside - alone).abs().max() > 1e-3 * alone.abs().max()
    assert length_limits(model.config) == (LIMIT,)
    assert length_limits(cases.llama().config) == ()


@pytest.mark.parametrize("size", [1, 2, 6])
def test_gradients_are_those_of_each_sequence_alone(size):
    asked, sequences = runner(size), short_and_long()
    expected, likelihoods = oracle.gradients(asked.model, asked.modules, sequences, sign=+1)
    found = query_gradients(asked, sequences)
    np.testing.assert_allclose(found.log_probabilities, likelihoods, rtol=1e-10)
    torch.testing.assert_close(found.layers, expected)


@pytest.mark.parametrize("size", [2, 6])
def test_scores_and_products_with_the_hessian_are_those_of_batches_of_one(size):
    sequences = short_and_long()
    found, expected = ({}, {})
    for results, batch in ((found, size), (expected, 1)):
        asked = runner(batch)
        torch.manual_seed(0)
        P = {m.name: torch.randn(2, m.output_width, m.input_width, dtype=torch.float64) for m in asked.modules}
        results["scores"] = torch.from_numpy(scores(asked, sequences, {"any": P}, 10)["any"])
        results |= gauss_newton_products(asked, [sequences], P, identities(asked))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def identities(asked):

    bases = {}
    for m in asked.modules:
        S, A = (torch.eye(n, dtype=torch.float64) for n in (m.output_width, m.input_width))
        bases[m.name] = Eigenbasis(S, A, S.diagonal(), A.diagonal())
    return bases


@pytest.mark.parametrize("by_length", [True, False])
def test_batches_hold_every_sequence_once_and_lie_on_one_side(by_length):
    sequences = short_and_long()
    batches = list(runner(4).batches(sequences, by_length=by_length))
    rows = np.concatenate([batch.rows for batch in batches])
    assert sorted(rows) == list(range(len(sequences)))
    for batch in batches:
        lengths = sequences.lengths[batch.rows]
        assert batch.lengths.tolist() == lengths.tolist()
        assert batch.keys == tuple(sequences.keys[batch.rows].tolist())
        assert len(set(lengths > LIMIT)) == 1
