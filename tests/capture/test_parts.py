"""Scores of documents' parts of sequences: by position, sums of outer products from autograd; whole sums are scores."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from influence_assets.capture import parts_of_batch as module
from influence_assets.capture.batches import Parts
from influence_assets.capture.covariance import covariances
from influence_assets.capture.one_pass import measure
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import ScoreTotals, score_all
from influence_assets.capture.sketches import SketchRows
from influence_assets.maths.ekfac import LayerCurvature, eigenbasis
from influence_assets.maths.sketches import strongest_coordinates
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.oracles.ekfac import Recorder, Text, label_likelihood

N = 50


def cut(sequences, cuts):
    """The parts of sequences that are cut at some positions; of one without a cut there are none."""
    rows = [
        (row, start, end)
        for row, inner in enumerate(cuts)
        if inner
        for start, end in zip([0, *inner], [*inner, int(sequences.lengths[row])], strict=True)
    ]
    return Parts(*np.array(rows, np.int64).reshape(-1, 3).T)


def runner_for(architecture, batch=4):
    model = cases.ARCHITECTURES[architecture]()
    return Runner(model, select_modules(model, "mlp"), batch)


def factors(runner, queries=3):
    torch.manual_seed(3)
    return {m.name: torch.randn(queries, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}


def split_scores(runner, sequences, parts, P):
    totals = ScoreTotals({}, len(sequences), N, "cpu", parts)
    totals.include("any", len(next(iter(P.values()))), split=True)
    totals.hold("any", P)
    return score_all(runner, sequences, totals, None)


def by_hand(runner, sequences, parts, P):
    """[query, part]: a backward pass for each sequence; outer products of the part's positions, one by one."""
    found = []
    for row, start, end in zip(*vars(parts).values(), strict=True):
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
def shared():
    made = cases.sequences(6)
    cuts = [[cut for cut in inner if cut < length] for inner, length in zip(CUTS, made.lengths, strict=True)]
    assert sum(map(bool, cuts)) > 2
    return made, cut(made, cuts)


@pytest.mark.parametrize("batch", [1, 4, 6])
@pytest.mark.parametrize("architecture", cases.ARCHITECTURES)
def test_a_part_is_the_sum_over_its_documents_positions(architecture, batch, shared):
    runner = runner_for(architecture, batch)
    P = factors(runner)
    found = split_scores(runner, *shared, P).part_totals("any")
    np.testing.assert_allclose(found, by_hand(runner, *shared, P), rtol=1e-8, atol=1e-12)


@given(st.data())
def test_parts_sum_to_the_score_however_sequences_are_cut(data):
    runner, sequences = runner_for("gpt2", data.draw(st.integers(1, 7))), cases.sequences(6)
    cuts = [sorted(data.draw(st.sets(st.integers(1, int(length) - 1), max_size=11))) for length in sequences.lengths]
    parts = cut(sequences, cuts)
    totals = split_scores(runner, sequences, parts, factors(runner, 2))
    found, whole = totals.part_totals("any"), totals.totals()["any"]
    for row in range(len(sequences)):
        if cuts[row]:
            np.testing.assert_allclose(found[:, parts.sequences == row].sum(1), whole[:, row], rtol=1e-9)
    assert found.shape == (2, sum(len(inner) + 1 for inner in cuts if inner))


def test_they_are_computed_a_few_at_a_time(shared, monkeypatch):
    runner = runner_for("llama", 6)
    whole = split_scores(runner, *shared, factors(runner)).part_totals("any")
    monkeypatch.setattr(module, "PARTS_AT_ONCE", 2)
    few = split_scores(runner, *shared, factors(runner)).part_totals("any")
    np.testing.assert_allclose(few, whole, rtol=1e-10)


@pytest.mark.parametrize("beside_sketches", [False, True])
def test_in_the_eigenbases_and_by_several_methods_they_are_the_same(shared, beside_sketches):
    runner, (sequences, parts) = runner_for("gpt2"), shared
    methods = {"three": factors(runner), "two": factors(runner, 2)}
    bases = {name: eigenbasis(total.A, total.S) for name, total in covariances(runner, sequences, None).items()}
    totals = ScoreTotals({"not split": factors(runner)}, len(sequences), N, "cpu", parts)
    for method, P in methods.items():
        totals.include(method, {"three": 3, "two": 2}[method], split=True)
        totals.hold(method, {n: b.Q_S.T @ P[n] @ b.Q_A for n, b in bases.items()})
    participants = [totals]
    if beside_sketches:
        layers = {n: LayerCurvature(b, torch.ones(len(b.Q_S), len(b.Q_A)).double(), 0.1) for n, b in bases.items()}
        coordinates = strongest_coordinates(layers, 10)
        participants.append(SketchRows(runner, layers, coordinates, factors(runner), lambda _batch: None))
    measure(runner, sequences, participants, bases, None)
    for method, P in methods.items():
        expected = by_hand(runner, sequences, parts, P)
        np.testing.assert_allclose(totals.part_totals(method), expected, rtol=1e-8, atol=1e-12)


def test_without_parts_nothing_is_split():
    runner, sequences = runner_for("gpt2"), cases.sequences(3)
    with pytest.raises(ValueError, match="cannot be split without parts"):
        split_scores(runner, sequences, None, factors(runner))
    uncut = cut(sequences, [[], [], []])
    assert split_scores(runner, sequences, uncut, factors(runner)).part_totals("any").shape == (3, 0)
