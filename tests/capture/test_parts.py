"""Scores of documents' parts of sequences: by position, sums of outer products from autograd; whole sums are scores."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from influence_assets.capture import scores as module
from influence_assets.capture.batches import Parts
from influence_assets.capture.covariance import covariances
from influence_assets.capture.one_pass import measure
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import ScoreTotals, scored
from influence_assets.capture.sketches import SketchRows
from influence_assets.maths.ekfac import LayerCurvature, eigenbasis
from influence_assets.maths.sketches import strongest_coordinates
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.oracles.ekfac import Recorder, Text, label_likelihood

N = 50


def with_parts(sequences, cuts):
    """The sequences with their rows cut at some positions; rows without a cut are no parts."""
    rows = [
        (row, start, end)
        for row, inner in enumerate(cuts)
        if inner
        for start, end in zip([0, *inner], [*inner, int(sequences.lengths[row])], strict=True)
    ]
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    return type(sequences)(sequences.tokens, sequences.lengths, sequences.keys, parts=Parts(*columns))


def runner_for(architecture, batch=4):
    model = cases.ARCHITECTURES[architecture]()
    return Runner(model, select_modules(model, "mlp"), batch)


def factors(runner, queries=3):
    torch.manual_seed(3)
    return {m.name: torch.randn(queries, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}


def by_hand(runner, sequences, P):
    """[query, part]: a backward pass for each sequence; outer products of the part's positions, one by one."""
    found = []
    for row, start, end in zip(*vars(sequences.parts).values(), strict=True):
        tokens = torch.from_numpy(sequences.tokens[row, : sequences.lengths[row]].astype(np.int64))
        embedded = runner.model.get_input_embeddings().register_forward_hook(lambda _m, _i, o: o.requires_grad_())
        with embedded, Recorder(runner.modules) as recorder:
            (-label_likelihood(runner.model, Text(tokens), tokens[1:].tolist())).backward()
        score = torch.zeros(len(next(iter(P.values()))), dtype=torch.float64)
        for linear in runner.modules:
            a, output = recorder.seen[linear.name]
            if a.shape[1] < linear.input_width:  # its bias sees a 1
                a = torch.cat([a, torch.ones_like(a[:, :1])], dim=1)
            for position in range(start, end):
                G = torch.outer(output.grad[0, position], a[position])
                score -= torch.einsum("qoi,oi->q", P[linear.name], G) / N
        found.append(score.numpy())
    return np.array(found).reshape(-1, len(next(iter(P.values())))).T


CUTS = [[2, 5, 6, 11], [1], [], [1, 2, 4], [3], [2, 3]]


@pytest.fixture
def sequences():
    made = cases.sequences(6)
    cuts = [[cut for cut in inner if cut < length] for inner, length in zip(CUTS, made.lengths, strict=True)]
    assert sum(map(bool, cuts)) > 2
    return with_parts(made, cuts)


@pytest.mark.parametrize("batch", [1, 4, 6])
@pytest.mark.parametrize("architecture", cases.ARCHITECTURES)
def test_a_part_is_the_sum_over_its_documents_positions(architecture, batch, sequences):
    runner = runner_for(architecture, batch)
    P = factors(runner)
    totals = scored(runner, sequences, {"any": P}, N, None, "any")
    np.testing.assert_allclose(totals.part_totals(), by_hand(runner, sequences, P), rtol=1e-8, atol=1e-12)


@given(st.data())
def test_parts_sum_to_the_score_however_sequences_are_cut(data):
    runner, made = runner_for("gpt2", data.draw(st.integers(1, 7))), cases.sequences(6)
    cuts = [sorted(data.draw(st.sets(st.integers(1, int(length) - 1), max_size=11))) for length in made.lengths]
    sequences, P = with_parts(made, cuts), factors(runner, 2)
    totals = scored(runner, sequences, {"any": P}, N, None, "any")
    parts, whole = totals.part_totals(), totals.totals()["any"]
    for row in range(len(made)):
        if cuts[row]:
            np.testing.assert_allclose(parts[:, sequences.parts.sequences == row].sum(1), whole[:, row], rtol=1e-9)
    assert parts.shape == (2, sum(len(inner) + 1 for inner in cuts if inner))


def test_they_are_computed_a_few_at_a_time(sequences, monkeypatch):
    runner = runner_for("llama", 6)
    whole = scored(runner, sequences, {"any": factors(runner)}, N, None, "any").part_totals()
    monkeypatch.setattr(module, "PARTS_AT_ONCE", 2)
    few = scored(runner, sequences, {"any": factors(runner)}, N, None, "any").part_totals()
    np.testing.assert_allclose(few, whole, rtol=1e-10)


@pytest.mark.parametrize("beside_sketches", [False, True])
def test_in_the_eigenbases_they_are_the_same(sequences, beside_sketches):
    runner = runner_for("gpt2")
    P = factors(runner)
    expected = by_hand(runner, sequences, P)
    bases = {name: eigenbasis(total.A, total.S) for name, total in covariances(runner, sequences, None).items()}
    rotated = {name: basis.Q_S.T @ P[name] @ basis.Q_A for name, basis in bases.items()}
    totals = ScoreTotals({"any": rotated}, len(sequences), N, "cpu", sequences.parts, "any")
    participants = [totals]
    if beside_sketches:
        layers = {name: LayerCurvature(basis, torch.ones_like(P[name][0]), 0.1) for name, basis in bases.items()}
        coordinates = strongest_coordinates(layers, 10)
        participants.append(SketchRows(runner, layers, coordinates, factors(runner), lambda _batch: None))
    measure(runner, sequences, participants, bases, None)
    np.testing.assert_allclose(totals.part_totals(), expected, rtol=1e-8, atol=1e-12)


def test_without_parts_there_are_none():
    runner, made = runner_for("gpt2"), cases.sequences(3)
    with pytest.raises(ValueError, match="no method's scores are split"):
        scored(runner, made, {"any": factors(runner)}, N, None, "any").part_totals()
    uncut = with_parts(made, [[], [], []])
    assert scored(runner, uncut, {"any": factors(runner)}, N, None, "any").part_totals().shape == (3, 0)
