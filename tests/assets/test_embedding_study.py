"""A whole study that attributes the matrix of the words too, against the formula written down with dense gradients."""

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from influence_assets.models.layers.selection import select_modules
from tests import studies
from tests.closeness import assert_same_scores
from tests.oracles import ekfac as oracle
from tests.oracles.gradients import Unfrozen, sequence_gradient
from tests.oracles.readings import QUESTIONS, packed, question, question_id

RELATIVE = 1e-6
WORDS = {"gpt2": ["transformer.wte"], "llama": ["model.embed_tokens", "lm_head"]}
FISHER = {"gpt2": "true", "llama": "empirical"}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def computed(request, tmp_path_factory):
    """The architecture, and a study of it."""
    curvature = {"modules": "mlp+embedding", "fisher": FISHER[request.param]}
    folder = tmp_path_factory.mktemp(request.param)
    study = studies.lay_out(folder, architecture=request.param, curvature=curvature)
    assert set(studies.compute(study)) == studies.everything()
    return request.param, study


def formula(model, layer, sequences, questions, labels):
    """−⟨(v Q_A) / (Λ + λ), g Q_A⟩ / N of every question and sequence, with Λ and Q_A of the gradients at the labels."""
    with Unfrozen((layer,)):

        def gradient(likelihood):
            return sequence_gradient((layer,), likelihood)[layer.name]

        fitted = torch.stack(
            [
                gradient(-oracle.label_likelihood(model, text, [*drawn, None]))
                for text, drawn in zip(sequences, labels, strict=True)
            ]
        )
        own = [gradient(-oracle.label_likelihood(model, text, text.tokens[1:].tolist())) for text in sequences]
        before = [[None] * (text.first - 1) for text in questions]
        asked = [
            gradient(oracle.label_likelihood(model, text, [*none, *text.tokens[text.first :].tolist()]))
            for text, none in zip(questions, before, strict=True)
        ]
    Q = torch.linalg.eigh(sum(G.T @ G for G in fitted)).eigenvectors
    eigenvalues = (fitted @ Q).square().mean(0)
    damped = eigenvalues + 0.1 * eigenvalues.mean()
    v, g = torch.stack(asked) @ Q, torch.stack(own) @ Q
    return -torch.einsum("qrd,srd->qs", v / damped, g).numpy() / len(sequences), 0.1 * float(eigenvalues.mean())


@pytest.fixture(scope="module")
def truth(computed):
    """The ids of questions and sequences, the scores of each layer, and the damping of the words' layers."""
    architecture, study = computed
    tokenizer = studies.tokenizer()
    model = AutoModelForCausalLM.from_pretrained(study.parent / "model", dtype=torch.float64)
    model = model.eval().requires_grad_(False)
    sequences, questions = list(packed(tokenizer)), [question(row, tokenizer) for row in QUESTIONS]
    labels = [text.tokens[1:].tolist() for text in sequences]
    if FISHER[architecture] == "true":
        labels = [oracle.sampled_labels(model, text, 0) for text in sequences]
    mlp, words = select_modules(model, "mlp"), select_modules(model, "embedding")
    assert [layer.name for layer in words] == WORDS[architecture]
    curvature = oracle.dense_curvature(model, mlp, sequences, labels, scale=0.1)
    losses, _ = oracle.loss_gradients(model, mlp, sequences, sign=-1)
    asked, _ = oracle.loss_gradients(model, mlp, questions, sign=+1)
    layers = {name: found.numpy() for name, found in oracle.scores(curvature, asked, losses).items()}
    dampings = {}
    for layer in words:
        layers[layer.name], dampings[layer.name] = formula(model, layer, sequences, questions, labels)
    ids = [row.get("query_id") or question_id(row) for row in QUESTIONS]
    return ids, [text.key for text in sequences], layers, dampings


def assert_close(found, expected):
    """Relative to each question's largest score."""
    size = np.abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found / size, expected / size, rtol=0, atol=RELATIVE)


def test_scores_are_those_of_the_formula(computed, truth):
    ids, keys, layers, _ = truth
    stored = studies.scores(computed[1])
    found = np.array([[stored[query, key] for key in keys] for query in ids])
    assert len(stored) == found.size
    assert_close(found, sum(layers.values()))
    of_words = sum(layers[name] for name in WORDS[computed[0]])
    assert (np.abs(of_words).max(axis=1) > 0.01 * np.abs(found).max(axis=1)).all(), "what is tested matters"


def test_the_words_are_layers_of_the_tables(computed, truth):
    architecture, study = computed
    modules = studies.ask_sql(study, "select * from modules")
    words = studies.tokenizer().get_vocab_size()
    for name in WORDS[architecture]:
        (row,) = modules.filter(pl.col("module_name") == name).to_dicts()
        assert (row["output_width"], row["input_width"], row["parameters"]) == (words, 8, 8 * words)
        assert row["damping"] == pytest.approx(truth[3][name], rel=RELATIVE)
    with_factor = dict(modules.select("module_name", "has_output_factor").rows())
    assert {name for name, has_factor in with_factor.items() if not has_factor} == set(WORDS[architecture])
    fitted, widest = modules["covariance_tokens"].min(), words
    assert fitted < widest, "no caution would be wrong here"
    assert studies.ask_sql(study, "from cautions where query_id is null").is_empty()
    (generation,) = studies.ask_sql(study, "select * from generations").to_dicts()
    assert generation["attributed_parameters"] == modules["parameters"].sum()
    assert generation["attributed_parameters"] < generation["total_parameters"]


def test_layers_and_tokens_and_parts_sum_to_the_score(computed, truth):
    _, study = computed
    ids, keys, layers, _ = truth
    total = sum(layers.values())
    size = dict(zip(ids, np.abs(total).max(axis=1), strict=True))
    split = studies.ask_sql(study, "select query_id, sequence_id, module_name, influence_nats from layer_influence")
    assert set(split["module_name"]) == set(layers)
    for query, sequence, module, score in split.iter_rows():
        expected = layers[module][ids.index(query), keys.index(sequence)]
        assert score == pytest.approx(expected, abs=RELATIVE * size[query])
    tokens = studies.ask_sql(
        study,
        "select query_id, sum(token_influence.influence_nats) as tokens, "
        "any_value(current_scores.influence_nats) as score "
        "from token_influence join current_scores using (query_id, sequence_id) group by query_id, sequence_id",
    )
    parts = studies.ask_sql(
        study,
        """
        select
            query_id, current_scores_by_document.influence_nats as score, sum(token_influence.influence_nats) as tokens
        from current_scores_by_document
        inner join sequence_documents using (sequence_id, document_key)
        inner join token_influence using (query_id, sequence_id)
        where token_position >= token_start and token_position < token_end
        group by query_id, sequence_id, document_key, score
        """,
    )
    assert parts.height > tokens.height > 0
    for query, summed, score in [*tokens.select("query_id", "tokens", "score").rows(),
                                 *parts.select("query_id", "tokens", "score").rows()]:  # fmt: skip
        assert summed == pytest.approx(score, abs=RELATIVE * size[query])


def test_queries_are_stored_without_a_row_for_every_word(computed):
    """A question's tokens that only go in take a number of a row, and the row's vector."""
    architecture, study = computed
    stored = studies.artifact(study, "query_gradients", query_set=studies.FIRST)
    questions = [question(row, studies.tokenizer()) for row in studies.FIRST_ROWS]
    words = studies.tokenizer().get_vocab_size()
    for name in WORDS[architecture]:
        looks_up, speaks = name != "lm_head", name == "lm_head" or architecture == "gpt2"
        predicting = [len(text.tokens) - text.first if speaks else 0 for text in questions]
        # Where the outer products of what predicts would take more, the gradient is stored in full.
        in_parts = [rows * (words + 8) < 8 * words for rows in predicting]
        assert any(in_parts)
        arrays = set(stored.array_names())
        if speaks:
            rows = sum(rows for rows, is_kept in zip(predicting, in_parts, strict=True) if is_kept)
            assert stored.array(f"{name}.L").shape == (rows, words)
        else:
            assert not {f"{name}.L", f"{name}.R", f"{name}.V"} & arrays
        own = [
            len(
                {
                    *(text.tokens[:-1].tolist() if looks_up else []),
                    *(text.tokens[text.first :].tolist() if speaks else []),
                }
            )
            for text, is_kept in zip(questions, in_parts, strict=True)
            if is_kept
        ]
        assert stored.array(f"{name}.X").shape == (sum(own), 8)
        assert stored.array(f"{name}.rows").shape == (sum(own),)


def test_a_later_shard_is_scored_and_its_drift_measured(computed, tmp_path):
    architecture, study = computed
    study = studies.copied(study, tmp_path)
    before = studies.scores(study)
    studies.write_extra(study)
    assert set(studies.compute(study)) == studies.of_shard(studies.EXTRA)
    after = studies.scores(study)
    assert_same_scores({pair: after[pair] for pair in before}, before)
    drift = studies.ask_sql(study, "select module_name, measure, drift from layer_drift")
    for name in WORDS[architecture]:
        of_layer = dict(drift.filter(pl.col("module_name") == name).select("measure", "drift").rows())
        assert of_layer["S"] == 0, "nothing rotates the words"
        assert 0 < of_layer["A"] < 1
        assert of_layer["eigenvalues"] > 0


def test_other_modules_begin_a_generation_and_the_same_ones_none(study):
    asked = "select generation_id, attributed_parameters from generations order by all desc"
    before, of_mlp = studies.scores(study), studies.ask_sql(study, asked).row(0)
    assert studies.compute(study) == []
    studies.write_study(study.parent, curvature={"modules": "mlp+embedding"})
    assert "eigenbases" in studies.compute(study)
    of_both = studies.ask_sql(study, asked).row(0)
    words = studies.tokenizer().get_vocab_size()
    assert of_both == (of_mlp[0] + 1, of_mlp[1] + 8 * words)
    assert studies.scores(study).keys() == before.keys()
