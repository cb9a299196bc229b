"""The sanity check of Adebayo et al. 2018 (arXiv 1810.03292): scores depend on what the model has learnt.

An explanation that is the same for a model without training explains the text, not the model. Weights are made anew
all at once, and block by block from the top (their "cascading randomisation"); scores are compared by rank.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from influence_assets.capture.batches import Sequences
from influence_assets.capture.correction import eigenvalue_corrections
from influence_assets.capture.covariance import covariances
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import scores
from influence_assets.maths.ekfac import LayerCurvature, damping, eigenbasis
from influence_assets.models.layers.selection import select_modules
from tests import studies

WORDS, LENGTH, SEQUENCES, QUERIES = 24, 12, 96, 12
STEPS = 300


def chains(number, seed):
    """Text with something to learn: each token follows from the one before by one of four rules, four times in five."""
    generator = np.random.default_rng(seed)
    rules = np.random.default_rng(0).permuted(np.tile(np.arange(1, WORDS), (4, 1)), axis=1)
    rows = np.zeros((number, LENGTH), np.int32)
    for row in rows:
        rule = rules[generator.integers(4)]
        row[0] = generator.integers(1, WORDS)
        for place in range(1, LENGTH):
            drawn = generator.integers(1, WORDS)
            row[place] = rule[row[place - 1] - 1] if generator.random() < 0.8 else drawn
    return Sequences(rows, np.full(number, LENGTH, np.int32), np.arange(number))


def network(seed):
    return studies.network("gpt2", vocabulary=WORDS, seed=seed).double()


@pytest.fixture(scope="module")
def trained():
    model = network(0)
    tokens = torch.from_numpy(chains(SEQUENCES, 1).tokens.astype(np.int64))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(STEPS):
        loss = model(input_ids=tokens, labels=tokens).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.7 * np.log(WORDS), "it has learnt something"
    return model.eval().requires_grad_(False)


def influence(model):
    """EK-FAC scores [query, sequence] of new text of the same kind."""
    sequences, queries = chains(SEQUENCES, 1), chains(QUERIES, 2)
    runner = Runner(model.eval().requires_grad_(False), select_modules(model, "mlp"), 16)
    bases = {name: eigenbasis(total.A, total.S) for name, total in covariances(runner, sequences, None).items()}
    Λ = {name: found.mean() for name, found in eigenvalue_corrections(runner, sequences, bases, None).items()}
    layers = {n: LayerCurvature(bases[n], Λ[n], damping(float(Λ[n].mean()), 0.1)) for n in bases}
    V = query_gradients(runner, queries, bases).layers
    P = {name: layer.precondition(V[name]) for name, layer in layers.items()}
    return scores(runner, sequences, {"ekfac": P}, SEQUENCES, bases)["ekfac"]


def agreement(found, others):
    """The rank correlation over sequences, averaged over queries."""
    return float(np.mean([spearmanr(*pair).statistic for pair in zip(found, others, strict=True)]))


def with_blocks_anew(model, blocks, seed):
    """A copy whose last `blocks` blocks, with the norm and head above them, have the weights of another start."""
    changed = network(0)
    changed.load_state_dict(model.state_dict())
    other = network(seed)
    changed.transformer.ln_f.load_state_dict(other.transformer.ln_f.state_dict())
    for number in range(len(changed.transformer.h) - blocks, len(changed.transformer.h)):
        changed.transformer.h[number].load_state_dict(other.transformer.h[number].state_dict())
    return changed


def test_a_model_without_training_ranks_passages_otherwise(trained):
    own = influence(trained)
    assert agreement(own, own) == pytest.approx(1)
    anew = [agreement(own, influence(network(seed))) for seed in (11, 12, 13)]
    assert abs(np.mean(anew)) < 0.15, anew


def test_each_block_from_the_top_changes_the_scores(trained):
    own = influence(trained)
    left = [1.0]
    for blocks in range(1, len(trained.transformer.h) + 1):
        left.append(np.mean([agreement(own, influence(with_blocks_anew(trained, blocks, seed))) for seed in (11, 12)]))
    assert left[1] < 0.8
    assert all(later < earlier + 0.1 for earlier, later in pairwise(left)), left
