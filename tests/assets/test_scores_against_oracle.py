"""What a whole run stores, against the same computed from dense pieces: two shards, two query sets, float64."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from influence_assets.assets.shared_pass import SHARD_PASS
from influence_assets.layouts import queries
from influence_assets.models.layers.rule import AttributedLayer
from influence_assets.models.layers.selection import select_modules
from tests import studies
from tests.oracles import ekfac as oracle
from tests.oracles.readings import QUESTIONS, packed, question, question_id

LAYERS = [f"transformer.h.{block}.mlp.{layer}" for block in (0, 1) for layer in ("c_fc", "c_proj")]
RELATIVE = 1e-6


@dataclass
class Truth:
    """The corpus and the questions by the oracle's own reading of the files."""

    model: PreTrainedModel
    modules: tuple[AttributedLayer, ...]
    sequences: list[oracle.Text]
    questions: list[oracle.Text]

    def scores(self, labels):
        curvature = oracle.dense_curvature(self.model, self.modules, self.sequences, labels, scale=0.1)
        queries, _ = oracle.loss_gradients(self.model, self.modules, self.questions, sign=+1)
        losses, _ = oracle.loss_gradients(self.model, self.modules, self.sequences, sign=-1)
        return oracle.scores(curvature, queries, losses)

    def empirical_labels(self):
        return [text.tokens[1:].tolist() for text in self.sequences]

    def sampled_labels(self, seed):
        return [oracle.sampled_labels(self.model, text, seed) for text in self.sequences]


@pytest.fixture(scope="module")
def truth(standing):
    tokenizer = studies.tokenizer()
    model = AutoModelForCausalLM.from_pretrained(standing.parent / "model", dtype=torch.float64)
    model = model.eval().requires_grad_(False)
    modules = select_modules(model, "mlp")
    assert [linear.name for linear in modules] == LAYERS
    return Truth(model, modules, list(packed(tokenizer)), [question(row, tokenizer) for row in QUESTIONS])


@pytest.fixture(scope="module")
def empirical(tmp_path_factory):
    study = studies.lay_out(tmp_path_factory.mktemp("empirical"), curvature={"fisher": "empirical"})
    studies.compute(study)
    return study


def stored(study, truth, sql="select query_id, sequence_id, influence_nats from current_scores"):
    """[question, sequence] in the oracle's order; every pair must be there."""
    rows = {(query, sequence): score for query, sequence, score in studies.ask_sql(study, sql).iter_rows()}
    ids = [row.get("query_id") or question_id(row) for row in QUESTIONS]
    assert len(rows) == len(ids) * len(truth.sequences)
    return np.array([[rows[query, text.key] for text in truth.sequences] for query in ids])


def assert_close(found, expected):
    """Relative to each question's largest score, since small ones are differences of large parts."""
    size = np.abs(expected).max(axis=1, keepdims=True)
    assert (size > 1e-6).all()
    np.testing.assert_allclose(found / size, expected / size, rtol=0, atol=RELATIVE)


def test_scores_with_the_datas_own_labels_are_the_oracles(empirical, truth):
    expected = sum(truth.scores(truth.empirical_labels()).values()).numpy()
    assert_close(stored(empirical, truth), expected)


def test_scores_with_sampled_labels_are_the_oracles(standing, truth):
    expected = sum(truth.scores(truth.sampled_labels(seed=0)).values()).numpy()
    assert_close(stored(standing, truth), expected)


@pytest.mark.soak
def test_another_seed_samples_other_labels(study, truth):
    studies.write_study(study.parent, curvature={"seed": 5})
    studies.compute(study)
    assert_close(stored(study, truth), sum(truth.scores(truth.sampled_labels(seed=5)).values()).numpy())


def test_layers_of_the_strongest_are_the_oracles(empirical, truth):
    layers = {name: layer.numpy() for name, layer in truth.scores(truth.empirical_labels()).items()}
    total = sum(layers.values())
    size = np.abs(total).max(axis=1)
    ids = [row.get("query_id") or question_id(row) for row in QUESTIONS]
    columns = {text.key: column for column, text in enumerate(truth.sequences)}
    split = studies.ask_sql(empirical, "select query_id, sequence_id, module_name, influence_nats from layer_influence")
    for query, sequence, module, score in split.iter_rows():
        row = ids.index(query)
        assert score == pytest.approx(layers[module][row, columns[sequence]], abs=RELATIVE * size[row])
    # Two strongest and two weakest of each question, in every layer.
    kept = {(query, sequence) for query, sequence, _, _ in split.iter_rows()}
    order = total.argsort(axis=1)
    expected = {(q, truth.sequences[c].key) for r, q in enumerate(ids) for c in (*order[r, :2], *order[r, -2:])}
    assert kept == expected
    assert split.height == len(kept) * len(LAYERS)


def test_a_documents_part_is_what_enters_through_its_tokens(empirical):
    compared = studies.ask_sql(
        empirical,
        """
        select current_scores_by_document.influence_nats as part, sum(token_influence.influence_nats) as tokens
        from current_scores_by_document
        inner join sequence_documents using (sequence_id, document_key)
        inner join token_influence using (query_id, sequence_id)
        where token_position >= token_start and token_position < token_end
        group by query_id, sequence_id, document_key, part
        """,
    )
    shared = "select count(*) from (from sequence_documents select sequence_id group by all having count(*) > 1)"
    assert studies.ask_sql(empirical, shared).item() > 2
    size = compared.select(pl.col("part").abs().max()).item()
    assert compared.height > 2 * len(QUESTIONS)
    np.testing.assert_allclose(compared["part"], compared["tokens"], rtol=0, atol=RELATIVE * size)


def test_tokens_of_the_strongest_sum_to_the_score_and_are_spelt_out(empirical, truth):
    sums = studies.ask_sql(
        empirical,
        "select query_id, sequence_id, sum(token_influence.influence_nats) as tokens, "
        "any_value(current_scores.influence_nats) as score, count(*) as positions, "
        "string_agg(token, '' order by token_position) as text "
        "from token_influence join current_scores using (query_id, sequence_id) group by all",
    )
    tokenizer, texts = studies.tokenizer(), {text.key: text.tokens.tolist() for text in truth.sequences}
    largest = sums.select(pl.col("score").abs().max()).item()
    np.testing.assert_allclose(sums["tokens"], sums["score"], rtol=0, atol=RELATIVE * largest)
    for row in sums.iter_rows(named=True):
        tokens = texts[row["sequence_id"]]
        assert row["positions"] == len(tokens)
        assert row["text"] == "".join(tokenizer.decode([token], skip_special_tokens=False) for token in tokens)


def test_the_baseline_is_the_gradients_inner_product(standing, truth):
    queries, _ = oracle.loss_gradients(truth.model, truth.modules, truth.questions, sign=+1)
    losses, _ = oracle.loss_gradients(truth.model, truth.modules, truth.sequences, sign=-1)
    expected = np.array([[-sum(float((f[n] * L[n]).sum()) for n in LAYERS) for L in losses] for f in queries]) / len(
        losses
    )
    sql = "select query_id, sequence_id, score from method_scores where method = 'gradient_dot'"
    assert_close(stored(standing, truth, sql), expected)


def test_what_is_said_of_questions_and_layers_is_the_oracles(standing, truth):
    gradients, likelihoods = oracle.loss_gradients(truth.model, truth.modules, truth.questions, sign=+1)
    told = studies.ask_sql(standing, "select * from queries order by query_set_id, source_row").to_dicts()
    for row, text, gradient, likelihood in zip(told, truth.questions, gradients, likelihoods, strict=True):
        norm = np.sqrt(sum(float(part.square().sum()) for part in gradient.values()))
        assert row["log_probability_nats"] == pytest.approx(likelihood, rel=RELATIVE)
        assert row["gradient_norm"] == pytest.approx(norm, rel=RELATIVE)
        assert (row["prompt_tokens"], row["completion_tokens"]) == (text.first, len(text.tokens) - text.first)
    (generation,) = studies.ask_sql(standing, "select * from generations").to_dicts()
    tokens = sum(len(text.tokens) for text in truth.sequences)
    assert generation["training_sequences"] == len(truth.sequences)
    assert generation["training_tokens"] == tokens
    assert generation["attributed_parameters"] == sum(8 * 33 + 32 * 9 for _ in range(2))
    assert generation["total_parameters"] == sum(p.numel() for p in truth.model.parameters())
    curvature = oracle.dense_curvature(
        truth.model, truth.modules, truth.sequences, truth.sampled_labels(seed=0), scale=0.1
    )
    for row in studies.ask_sql(standing, "select * from modules").iter_rows(named=True):
        assert row["damping"] == pytest.approx(curvature[row["module_name"]].damping, rel=RELATIVE)
        assert row["mean_eigenvalue"] == pytest.approx(10 * curvature[row["module_name"]].damping, rel=RELATIVE)
        assert row["covariance_tokens"] == tokens - len(truth.sequences)
        assert row["fit_sequences"] == len(truth.sequences)


@pytest.mark.slow
def test_the_curvature_can_be_fitted_on_a_draw(study, truth):
    studies.write_study(study.parent, curvature={"fit_sequences": 6})
    studies.compute(study)
    (generation,) = studies.ask_sql(study, "select * from generations").to_dicts()
    assert generation["training_sequences"] == len(truth.sequences)
    fitted = studies.ask_sql(study, "select distinct fit_sequences from modules")["fit_sequences"].to_list()
    drawn = studies.artifact(study, "eigenbases").manifest.summary
    assert fitted == [drawn["fitted_sequences"]]
    assert 1 <= drawn["fitted_sequences"] < len(truth.sequences)
    assert drawn["fitted_share"] == pytest.approx(6 / len(truth.sequences), rel=0.1)
    assert stored(study, truth).shape == (3, len(truth.sequences))


@pytest.mark.slow
def test_queries_that_do_not_fit_into_memory_at_once_are_scored_in_turns(tmp_path, monkeypatch):
    """A study with room for one query's gradient at a time has the scores of one with room for all."""
    one, all_at_once = (studies.lay_out(tmp_path / name) for name in ("one", "all"))
    studies.compute(all_at_once)
    monkeypatch.setattr(queries, "LARGEST_QUERIES_BYTES", 1)
    monkeypatch.setitem(vars(SHARD_PASS), "largest_held_bytes", 1)
    studies.compute(one)
    assert len(list(queries.chunks(3, 10))) == 3
    found, expected = studies.scores(one), studies.scores(all_at_once)
    assert found.keys() == expected.keys()
    largest = max(map(abs, expected.values()))
    for pair, score in expected.items():
        assert found[pair] == pytest.approx(score, rel=RELATIVE, abs=RELATIVE * largest)
