"""Stored query gradients and the scores made of them, against gradients in full; truncation against dense matrices."""

import math

import numpy as np
import pytest
import torch

from influence_assets.capture.gradients import gradients_in_parts, query_gradients, query_outer_products
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import scores
from influence_assets.layouts import outer_products
from influence_assets.layouts.outer_products import IN_FULL, fitting_rank, stored_bytes
from influence_assets.layouts.queries import StoredQueries
from influence_assets.maths.outer_products import GradientParts, OuterProducts
from influence_assets.methods.ekfac import precondition
from influence_assets.models.layers.selection import select_modules
from tests import cases, stored_queries
from tests.architectures.tiny import tiny
from tests.oracles import gradients as oracle
from tests.stored_queries import fitted, stored, write
from tests.tiers import slow_but

MODELS = {
    **cases.ARCHITECTURES,
    **cases.SCALED_LOGITS,
    **cases.EXPERTS,
    "gpt_oss": lambda: tiny("gpt_oss"),  # experts with biases
}
"""Every kind of layer: with and without biases, Conv1D, experts."""


def bases_of(curvature):
    return {name: layer.basis for name, layer in curvature.items()}


def ragged_queries(count=5):
    """Queries of several lengths; the first has a completion of one token, and the second nothing but one."""
    queries = cases.queries(count)
    lengths, first = queries.lengths.copy(), queries.first_scored.copy()
    first[0] = lengths[0] - 1
    lengths[1], first[1] = 2, 1
    return cases.Sequences(queries.tokens, lengths, queries.keys, first)


def runner_of(name, modules=None):
    model = MODELS[name]()
    return Runner(model, select_modules(model, modules or ("mlp" if name == "gpt_oss" else "linear")), 3)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("name", slow_but("gpt2", "llama", "mixtral", "gpt_oss", of=MODELS))
def test_scores_from_what_is_stored_are_those_of_gradients_in_full(name, blocks, tmp_path):
    runner, sequences, queries = runner_of(name), cases.sequences(), ragged_queries()
    curvature = fitted(runner, sequences, blocks)
    found = stored(tmp_path, runner, queries, curvature)
    whole = query_gradients(runner, queries, bases_of(curvature)).layers
    plain = {layer: V.clone() for layer, V in whole.items()}
    expected = {"gradient_dot": plain, "ekfac": precondition(whole, curvature)}
    for method, P in expected.items():
        found_scores = scores(runner, sequences, {"m": found.layers(found.all, method)}, found.N, bases_of(curvature))[
            "m"
        ]
        expected_scores = scores(runner, sequences, {"m": P}, found.N, bases_of(curvature))["m"]
        largest = np.abs(expected_scores).max(axis=1, keepdims=True)
        np.testing.assert_allclose(found_scores / largest, expected_scores / largest, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", slow_but("gpt2", "mixtral", of=MODELS))
def test_scores_are_the_same_if_vectors_of_some_layers_are_made_when_they_are_used(name, tmp_path):
    runner, sequences, queries = runner_of(name), cases.sequences(), ragged_queries()
    curvature = fitted(runner, sequences)
    found, bases = stored(tmp_path, runner, queries, curvature), bases_of(curvature)
    expected = {m: found.layers(found.all, m) for m in ("gradient_dot", "ekfac")}
    expected = scores(runner, sequences, expected, found.N, bases)
    for held in (frozenset(), frozenset(list(curvature)[::2])):
        P = {m: found.layers(found.all, m, held) for m in expected}
        assert {layer for layer in curvature if P["ekfac"].holds(layer)} == held
        assert list(P["ekfac"]) == [layer.name for layer in runner.modules]
        for method, of_method in scores(runner, sequences, P, found.N, bases).items():
            largest = np.abs(expected[method]).max(axis=1, keepdims=True)
            np.testing.assert_allclose(of_method / largest, expected[method] / largest, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", slow_but("gpt2", "mixtral", of=MODELS))
def test_gradients_in_parts_sum_to_those_in_full_and_have_as_few_numbers(name):
    runner, queries = runner_of(name), ragged_queries()
    bases = bases_of(fitted(runner, cases.sequences()))
    whole, every = query_gradients(runner, queries, bases).layers, gradients_in_parts(runner, queries, bases)
    forms = set()
    for layer in runner.modules:
        d_out, d_in = layer.output_width, layer.input_width
        parts = every[layer.name]
        for part in parts:
            numbers = part.numel() if isinstance(part, torch.Tensor) else len(part) * (d_out + d_in)
            assert numbers <= d_out * d_in
            forms.add(type(part))
        found = GradientParts.of(parts, whole[layer.name][:0]).sums()
        torch.testing.assert_close(found, whole[layer.name], rtol=1e-9, atol=1e-12)
    assert forms == {torch.Tensor, OuterProducts}
    assert GradientParts.of([], torch.zeros(0, 3, 4)).sums().shape == (0, 3, 4)


@pytest.mark.parametrize("name", slow_but("gpt2", "mixtral", of=MODELS))
def test_outer_products_are_of_the_tokens_with_a_gradient_and_sum_to_autograds(name):
    runner, sequences, queries = runner_of(name), cases.sequences(), ragged_queries()
    curvature = fitted(runner, sequences)
    found = query_outer_products(runner, queries, bases_of(curvature))
    expected, likelihoods = oracle.gradients(runner.model, runner.modules, queries, sign=+1)
    np.testing.assert_allclose(found.log_probabilities, likelihoods, rtol=1e-7)
    for layer, of_queries in found.layers.items():
        assert len(of_queries) == len(queries)
        for query, products in enumerate(of_queries):
            assert len(products) < queries.lengths[query]
            assert products.L.any(dim=1).all()
            V = curvature[layer].basis.rotate_back(products.sum())
            torch.testing.assert_close(V, expected[layer][query], rtol=1e-5, atol=1e-6)  # some cast to float32


def test_in_the_last_block_prompts_have_no_rows_and_experts_only_their_tokens():
    runner, queries = runner_of("mixtral"), ragged_queries()
    found = query_outer_products(runner, queries, bases_of(fitted(runner, cases.sequences())))
    completions = queries.counted_tokens()
    experts = [[len(found.layers[f"model.layers.1.mlp.experts.{e}.down_proj"][q]) for e in range(4)] for q in range(5)]
    np.testing.assert_array_equal(np.sum(experts, axis=1), 2 * completions)  # each token goes through two
    assert [len(V) for V in found.layers["model.layers.0.self_attn.v_proj"]] == (queries.lengths - 1).tolist()


def test_each_gradient_is_stored_in_the_smaller_form(tmp_path):
    runner, queries = runner_of("gpt2"), ragged_queries()
    curvature = fitted(runner, cases.sequences())
    artifact, _ = write(tmp_path, runner, [queries], curvature)
    found = query_outer_products(runner, queries, bases_of(curvature))
    ranks = artifact.array("ranks")
    forms = set()
    for row, (name, layer) in zip(ranks, curvature.items(), strict=True):
        d_out, d_in = layer.Λ.shape
        for rank, products in zip(row, found.layers[name], strict=True):
            is_full = len(products) * (d_out + d_in) >= d_out * d_in
            assert rank == (IN_FULL if is_full else len(products))
            forms.add(is_full)
        for letter, count in {"V": (row == IN_FULL).sum(), "L": row.clip(0).sum(), "R": row.clip(0).sum()}.items():
            held = f"{name}.{letter}" in artifact.array_names()
            assert held == (count > 0)
            assert not held or artifact.array_record(f"{name}.{letter}").shape[0] == count
    assert forms == {True, False}


@pytest.mark.parametrize("rank", [None, 2])
def test_chunks_do_not_matter(tmp_path, rank):
    """Neither those that are written nor those that are read."""
    runner, queries = runner_of("gpt2"), ragged_queries(7)
    curvature = fitted(runner, cases.sequences())
    whole, writer = write(tmp_path / "whole", runner, [queries], curvature, rank)
    chunks = [queries.take(np.arange(7)[rows]) for rows in (slice(0, 3), slice(3, 4), slice(4, 7))]
    parts, of_parts = write(tmp_path / "parts", runner, chunks, curvature, rank)
    np.testing.assert_array_equal(whole.array("ranks"), parts.array("ranks"))
    np.testing.assert_allclose(of_parts.norms, writer.norms, rtol=1e-12)
    np.testing.assert_allclose(of_parts.truncation_errors, writer.truncation_errors, rtol=1e-9)
    one, other = (StoredQueries(artifact, runner, curvature) for artifact in (whole, parts))
    expected = one.gradients(one.all)
    for rows in (other.all, slice(0, 3), slice(3, 7), slice(5, 6), slice(2, 2)):
        for name, V in other.gradients(rows).items():
            torch.testing.assert_close(V, expected[name][rows], rtol=1e-9, atol=1e-12)


def dense_error(exact, kept, curvature):
    """√(‖V − V_r‖² / ‖V‖²) by one dense matrix for each layer, in the model's coordinates."""
    lost, whole = 0.0, 0.0
    for name, layer in curvature.items():
        Q = torch.kron(layer.basis.Q_S, layer.basis.Q_A)
        G = Q @ torch.diag(layer.Λ.flatten()) @ Q.T + layer.λ * torch.eye(len(Q), dtype=torch.float64)
        v, v_r = (layer.basis.rotate_back(V[name].clone()).flatten() for V in (exact, kept))
        whole += float(v @ torch.linalg.solve(G, v))
        lost += float((v - v_r) @ torch.linalg.solve(G, v - v_r))
    return math.sqrt(lost / whole)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_error_is_that_of_the_dense_computation(tmp_path, rank):
    runner, queries = runner_of("gpt2", "mlp"), ragged_queries()
    curvature = fitted(runner, cases.sequences())
    artifact, writer = write(tmp_path, runner, [queries], curvature, rank)
    kept = StoredQueries(artifact, runner, curvature).gradients(slice(0, 5))
    exact = query_gradients(runner, queries, bases_of(curvature)).layers
    for query, error in enumerate(writer.truncation_errors):
        of_query = ({name: V[query] for name, V in layers.items()} for layers in (exact, kept))
        assert error == pytest.approx(dense_error(*of_query, curvature), rel=1e-7)
        assert torch.linalg.matrix_rank(kept["transformer.h.0.mlp.c_fc"][query]) <= rank
    # The second has one token, of which nothing is lost.
    assert writer.truncation_errors[1] == 0
    assert min(error for query, error in enumerate(writer.truncation_errors) if queries.lengths[query] > 6) > 1e-3
    np.testing.assert_allclose(writer.norms, oracle_norms(runner, queries), rtol=1e-9)


def oracle_norms(runner, queries):
    gradients, _ = oracle.gradients(runner.model, runner.modules, queries, sign=+1)
    return torch.cat([V.flatten(1) for V in gradients.values()], 1).norm(dim=1)


def test_a_rank_of_all_tokens_is_exact(tmp_path):
    runner, queries = runner_of("gpt2"), ragged_queries()
    curvature = fitted(runner, cases.sequences())
    artifact, writer = write(tmp_path, runner, [queries], curvature, rank=cases.CONTEXT - 1)
    assert writer.truncation_errors == [0.0] * 5
    exact = query_gradients(runner, queries, bases_of(curvature)).layers
    for name, V in StoredQueries(artifact, runner, curvature).gradients(slice(0, 5)).items():
        torch.testing.assert_close(V, exact[name], rtol=1e-10, atol=1e-12)


def test_a_wide_model_keeps_few_numbers_and_the_scores(tmp_path, monkeypatch):
    """64 × 256: a query of 11 tokens has a fifth of V's numbers, and a quarter of those where it is truncated."""
    model = cases.gpt2(width=64)
    runner, queries, sequences = Runner(model, select_modules(model, "mlp"), 3), ragged_queries(), cases.sequences()
    curvature = fitted(runner, sequences)
    bases = bases_of(curvature)
    in_full = 5 * 8 * sum(layer.Λ.numel() for layer in curvature.values())
    exact = stored(tmp_path / "exact", runner, queries, curvature)
    P = precondition(query_gradients(runner, queries, bases).layers, curvature)
    expected = scores(runner, sequences, {"m": P}, 1, bases)["m"]
    found = scores(runner, sequences, {"m": exact.layers(exact.all, "ekfac")}, 1, bases)["m"]
    largest = np.abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found / largest, expected / largest, rtol=0, atol=1e-10)
    monkeypatch.setattr(outer_products, "LARGEST_QUERY_BYTES", 1)
    monkeypatch.setattr(outer_products, "LOWEST_RANK", 3)
    artifact, writer = write(tmp_path / "kept", runner, [queries], curvature)
    assert artifact.array("ranks").max() == 3
    numbers = {n: math.prod(artifact.array_record(n).shape) for n in artifact.array_names() if n != "ranks"}
    assert 8 * sum(numbers.values()) < in_full / 16
    kept = StoredQueries(artifact, runner, curvature)
    estimated = scores(runner, sequences, {"m": kept.layers(kept.all, "ekfac")}, 1, bases)["m"]
    # |⟨V − V_r, g⟩| ≤ ‖V − V_r‖ ‖g‖ in the norm of the damped inverse.
    norms = [norms_in_damped_inverse(runner, texts, curvature) for texts in (queries, sequences)]
    np.testing.assert_allclose(np.sqrt(writer.squared_norms), norms[0], rtol=1e-9)
    bound = np.array(writer.truncation_errors)[:, None] * norms[0][:, None] * norms[1][None, :]
    assert (np.abs(estimated - expected) <= bound * (1 + 1e-9) + 1e-12).all()
    assert np.abs(estimated - expected).max() > 0


def norms_in_damped_inverse(runner, texts, curvature):
    G = query_gradients(runner, texts, bases_of(curvature)).layers
    return np.sqrt(sum((G[n].square() / (layer.Λ + layer.λ)).sum((1, 2)).numpy() for n, layer in curvature.items()))


@pytest.mark.parametrize("tokens", [5, 25, 27, 200, 5000])
def test_the_rank_is_the_largest_that_fits_but_not_too_low(tokens):
    """The layers of a model with 135 million parameters, by trying every rank."""
    shapes = [(1536, 576), (1536, 576), (576, 1536)] * 30
    rank = fitting_rank([tokens] * len(shapes), shapes, 4)
    in_full = 4 * sum(d_out * d_in for d_out, d_in in shapes)
    each = {r: 4 * sum(min(r, tokens) * (d_out + d_in) for d_out, d_in in shapes) for r in range(1, 5001)}
    if min(each[5000], in_full) <= outer_products.LARGEST_QUERY_BYTES:
        assert rank is None
    else:
        assert rank == max(r for r in each if min(each[r], in_full) <= outer_products.LARGEST_QUERY_BYTES) == 26
        assert stored_bytes(tokens, shapes, 4, None) == each[26]
    assert fitting_rank([tokens] * 900, shapes * 10, 4) == (24 if tokens > 24 else None)


def test_a_layer_without_rows_has_no_gradient(tmp_path):
    """An expert that no query reaches, and a query file without rows."""
    runner = runner_of("mixtral")
    curvature = fitted(runner, cases.sequences())
    few = cases.queries(1)
    one = cases.Sequences(few.tokens[:, :2], np.array([2], np.int32), few.keys, np.array([1], np.int32))
    found = stored(tmp_path / "one", runner, one, curvature)
    expected = query_gradients(runner, one, bases_of(curvature)).layers
    gradients = found.gradients(found.all)
    assert any(not V.any() for V in gradients.values())
    for name, V in gradients.items():
        torch.testing.assert_close(V, expected[name], rtol=1e-10, atol=1e-12)
    artifact, writer = write(tmp_path / "none", runner, [], curvature)
    none = StoredQueries(artifact, runner, curvature)
    assert {V.shape[0] for V in none.layers(none.all, "ekfac").values()} == {0}
    assert writer.norms == writer.squared_norms == writer.truncation_errors == []


def test_methods_are_given_one_layer_at_a_time(tmp_path, monkeypatch):
    runner = runner_of("gpt2", "mlp")
    curvature = fitted(runner, cases.sequences())
    found = stored(tmp_path, runner, cases.queries(), curvature)
    seen = []
    of_layer = found._gradients.of_layer

    def watched(layer, *arguments):
        seen.append(layer)
        return of_layer(layer, *arguments)

    monkeypatch.setattr(found._gradients, "of_layer", watched)
    assert list(found.layers(slice(0, 1), "ekfac")) == list(curvature) == seen
    assert stored_queries.N == found.N
