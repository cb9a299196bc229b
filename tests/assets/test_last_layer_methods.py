"""Methods that compare hidden states or words, as a run stores their scores, while the corpus changes.

What is expected is computed from single sequences that go through the model one by one, and from texts.
"""

import hashlib
import math
from collections import defaultdict

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, PhiConfig, PhiForCausalLM

from influence_assets.analysis.word_overlap import bm25_scores
from influence_assets.assets import asset_graph, open_workspace
from influence_assets.assets.hidden_states import every_loss_has_a_state
from influence_assets.assets.representer_points import tokens_reproduce_the_logits
from influence_assets.assets.study_sizes import StudySizes
from influence_assets.assets.term_counts import counts_add_up
from influence_assets.engine.partitions import Partition
from influence_assets.errors import InputError
from influence_assets.forecast.estimates import estimates
from influence_assets.maths.knn_shapley import shapley_values
from influence_assets.storage.catalogue import run_checks
from influence_assets.study import Study
from influence_assets.upkeep.forget import withdraw
from influence_assets.upkeep.verify import verify
from tests import studies
from tests.oracles.readings import QUESTIONS, question, question_id
from tests.studies import COAST, EXTRA, QUERY_SETS, SHARDS

OF_STATES = ["repsim", "knn_shapley", "representer_points"]
OTHERS = [*OF_STATES, "bm25"]
METHODS = ["ekfac", "gradient_dot", *OTHERS]
NEIGHBOURS, DECAY = 3, 0.01
OPTIONS = {"knn_shapley": {"neighbours": NEIGHBOURS}, "representer_points": {"decay": DECAY}}
UNITS = {"repsim": "cosine", "knn_shapley": "votes", "representer_points": "logits", "bm25": None}

ASSETS = {asset.name: asset for asset in asset_graph()}
BY_SHARD = ("hidden_states", "term_counts")
BY_QUERY_SET = ("query_states", "knn_shapley_values", "representer_points", "bm25_scores")


def computed(shards=SHARDS, query_sets=QUERY_SETS):
    """What the methods' assets compute for some shards, and for all query sets as the corpus is another."""
    names = {f"{asset}[{shard}]" for asset in BY_SHARD for shard in shards}
    names |= {f"repsim_scores[{query_set}|{shard}]" for query_set in query_sets for shard in shards}
    return names | {f"{asset}[{query_set}]" for asset in BY_QUERY_SET for query_set in query_sets} | {"refitted_head"}


def changed(*shards):
    """What one shard more, or another one, costs: the questions' own states stay."""
    return computed(shards) - {f"query_states[{query_set}]" for query_set in QUERY_SETS}


def lay_out(folder, methods=METHODS, **sections):
    return studies.lay_out(folder, methods=methods, method_options=sections.pop("method_options", OPTIONS), **sections)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    study = lay_out(tmp_path_factory.mktemp("scored"))
    assert set(studies.compute(study)) == studies.everything() | computed()
    return study


@pytest.fixture
def growing(scored, tmp_path):
    return studies.copied(scored, tmp_path)


class Expected:
    """What the scores of a study should be, by (query_id, sequence_id, document_id).

    Args:
        study: the study, all of it computed.
    """

    def __init__(self, study):
        self.study = study
        self.model = AutoModelForCausalLM.from_pretrained(study.parent / "model", dtype=torch.float64).eval()
        self.model.requires_grad_(requires_grad=False)
        self.tokens = [token for shard in studies.versions_of(study).workspace.shards for token in self._tokens(shard)]
        self.queries = {}
        tokenizer = studies.tokenizer()
        for row in QUESTIONS:
            text = question(row, tokenizer)
            states = self._states(text.tokens)[text.first - 1 : -1]
            self.queries[row.get("query_id") or question_id(row)] = states, text.tokens[text.first :]

    def _tokens(self, shard):
        """(sequence, document, state, label) of each token but a sequence's first; the document is the label's."""
        sequences = studies.artifact(self.study, "token_sequences", shard=shard)
        spans = sequences.table("sequence_documents").collect()
        lengths, tokens = sequences.array("lengths"), sequences.array("tokens")
        for key, length, row in zip(
            sequences.table("sequences").collect()["sequence_id"], lengths, tokens, strict=True
        ):
            ids = torch.tensor(row[:length].tolist())
            of_sequence = spans.filter(pl.col("sequence_id") == key)
            for position, state in enumerate(self._states(ids)[:-1], start=1):
                inside = (pl.col("token_start") <= position) & (position < pl.col("token_end"))
                yield key, of_sequence.filter(inside)["document_id"].item(), state, int(ids[position])

    def _states(self, tokens):
        return self.model(input_ids=tokens[None], output_hidden_states=True).hidden_states[-1][0]

    def by_passage(self, values):
        """Sums of values [query][token] over the tokens of each document in each sequence."""
        sums = defaultdict(float)
        for query, of_query in zip(self.queries, values, strict=True):
            for (sequence, document, *_), value in zip(self.tokens, of_query, strict=True):
                sums[query, sequence, document] += float(value)
        return sums

    def repsim(self):
        values = []
        whole = defaultdict(lambda: 0)
        for sequence, _, state, _ in self.tokens:
            whole[sequence] = whole[sequence] + state
        for states, _ in self.queries.values():
            x = states.mean(0) / states.mean(0).norm()
            values.append([x @ state / whole[sequence].norm() for sequence, _, state, _ in self.tokens])
        return self.by_passage(values)

    def knn_shapley(self):
        values = []
        for states, labels in self.queries.values():
            total = 0
            for test, label in zip(states, labels, strict=True):
                distances = [math.dist(state, test) for _, _, state, _ in self.tokens]
                agrees = torch.tensor([[token == int(label) for *_, token in self.tokens]])
                total += shapley_values(
                    torch.tensor([distances], dtype=torch.float64), agrees, NEIGHBOURS, resolution=torch.tensor([1e-9])
                )[0]
            values.append(total)
        return self.by_passage(values)

    def representer_points(self):
        folder = studies.artifact(self.study, "refitted_head").path("head")
        W = load_file(folder / "head.safetensors")["refitted"]
        states = torch.stack([state for _, _, state, _ in self.tokens])
        p = (states @ self.model.lm_head.weight.T).softmax(1)
        α = (p - (states @ W.T).softmax(1)) / (2 * DECAY * len(states))
        torch.testing.assert_close(α.T @ states, W, rtol=0, atol=1e-8)
        return self.by_passage([(α[:, labels] * (states @ tests.T)).sum(1) for tests, labels in self.queries.values()])

    def bm25(self):
        passages = {}
        for shard in studies.versions_of(self.study).workspace.shards:
            texts = dict(
                studies.artifact(self.study, "documents", shard=shard)
                .table("documents")
                .select("document_id", "text")
                .collect()
                .iter_rows()
            )
            spans = studies.artifact(self.study, "token_sequences", shard=shard).table("sequence_documents").collect()
            for sequence, document, _, _, start, end in spans.iter_rows():
                passages[sequence, document] = texts[document][start:end]
        texts = [row["prompt"] + row["completion"] for row in QUESTIONS]
        scores = bm25_scores(list(passages.values()), texts)
        return {
            (query, *key): float(score)
            for query, of_query in zip(self.queries, scores, strict=True)
            for key, score in zip(passages, of_query, strict=True)
        }


def stored(study, method):
    """Scores of documents' parts, by (query_id, sequence_id, document_id), and of sequences."""
    sql = """
        select query_id, sequence_id, document_id, score, unit, generation_id
        from method_part_scores
        inner join sequence_documents using (sequence_id, document_key)
        where method = $1
    """
    parts = studies.ask_sql(study, sql, [method])
    sequences = studies.ask_sql(
        study, "select query_id, sequence_id, score, unit, generation_id from method_scores where method = $1", [method]
    )
    for rows in (parts, sequences):
        assert set(rows["unit"]) == {UNITS[method]}
        assert rows["generation_id"].null_count() == rows.height
    return parts, sequences


def assert_rows_are_right(study):
    expected = Expected(study)
    for method in OTHERS:
        of_documents = getattr(expected, method)()
        of_sequences, documents = defaultdict(float), defaultdict(set)
        for (query, sequence, document), score in of_documents.items():
            of_sequences[query, sequence] += score
            documents[sequence].add(document)
        parts, sequences = stored(study, method)
        found = {row[:2]: row[2] for row in sequences.rows()}
        tolerance = 2e-6 if method == "bm25" else 1e-9  # bm25s is in float32
        assert found == pytest.approx(of_sequences, rel=tolerance, abs=tolerance), method
        held = {row[:3]: row[3] for row in parts.rows()}
        assert held.keys() >= {key for key in of_documents if len(documents[key[1]]) > 1} != set()
        # A document of which a sequence has one token, its first, has no token with a loss there.
        of_parts = {key: of_documents.get(key, 0.0) for key in held}
        assert held == pytest.approx(of_parts, rel=tolerance, abs=tolerance), method
        assert max(map(abs, found.values())) > 1e-3, method


def test_scores_are_those_of_single_sequences_and_texts(scored):
    assert_rows_are_right(scored)
    violations = run_checks(open_workspace(Study.load(scored)).catalogue)
    assert [name for name, rows in violations.items() if rows.height] == []
    assert verify(open_workspace(Study.load(scored)), lambda *_: None) == []


def test_a_file_more_costs_its_own_states_and_counts(growing):
    studies.write_extra(growing)
    assert set(studies.compute(growing)) == studies.of_shard(EXTRA) | changed(EXTRA)
    assert_rows_are_right(growing)
    studies.assert_no_stale_row(growing)


def test_a_changed_file_is_measured_again(growing):
    rows = [*studies.COAST_ROWS[1:], {"text": "The lamp of the harbour turns once in nine seconds."}]
    studies.write_jsonl(growing.parent / "corpus" / COAST, rows)
    assert set(studies.compute(growing)) >= changed(COAST)
    assert_rows_are_right(growing)
    studies.assert_no_stale_row(growing)


def test_a_withdrawn_document_leaves_nothing(growing, tmp_path_factory):
    text = studies.COAST_ROWS[2]["text"]
    identity = hashlib.sha256(text.encode()).hexdigest()[:32]
    assert len(withdraw(open_workspace(Study.load(growing)), [identity], "asked for")) == 1
    assert set(studies.compute(growing)) == studies.of_shard(COAST) | changed(COAST)
    assert_rows_are_right(growing)
    studies.assert_no_stale_row(growing)
    assert "fog" not in studies.artifact(growing, "term_counts", shard=COAST).table("term_counts").collect()["word"]
    fresh = lay_out(tmp_path_factory.mktemp("fresh"))
    studies.write_jsonl(fresh.parent / "corpus" / COAST, [row for row in studies.COAST_ROWS if row["text"] != text])
    studies.compute(fresh)
    for method in OTHERS:
        for one, other in zip(stored(growing, method), stored(fresh, method), strict=True):
            keys = [name for name in one.columns if name.endswith("_id")]
            pairs = one.drop("unit").join(other, on=keys, how="full", nulls_equal=True)
            assert pairs.height == one.height == other.height
            np.testing.assert_allclose(pairs["score"], pairs["score_right"], rtol=1e-9, atol=1e-9)


def test_a_changed_question_computes_its_set_alone(growing):
    rows = [*studies.SECOND_ROWS, {"prompt": "The smith heats", "completion": " the iron"}]
    studies.write_jsonl(growing.parent / "queries" / studies.SECOND, rows)
    done = studies.compute(growing)
    of_methods = {
        name for name in done if name.split("[")[0] in {*BY_SHARD, *BY_QUERY_SET, "repsim_scores", "refitted_head"}
    }
    expected = {f"{asset}[{studies.SECOND}]" for asset in BY_QUERY_SET}
    assert of_methods == expected | {f"repsim_scores[{studies.SECOND}|{shard}]" for shard in SHARDS}


def test_nothing_is_computed_unless_the_study_lists_a_method(tmp_path):
    study = lay_out(tmp_path, methods=["ekfac"], method_options={})
    assert set(studies.compute(study)) == studies.everything(but=["method_scores"])
    studies.write_study(tmp_path, methods=["ekfac", "bm25"])
    words = {f"term_counts[{shard}]" for shard in SHARDS} | {f"bm25_scores[{query_set}]" for query_set in QUERY_SETS}
    assert set(studies.compute(study)) == words | {"influence_catalogue"}
    assert not studies.ask_sql(study, "from method_scores").is_empty()


def test_scores_of_a_method_that_is_no_longer_listed_go_with_the_corpus_that_they_were_of(growing):
    studies.write_study(growing.parent)
    studies.compute(growing)
    studies.write_extra(growing)
    assert set(studies.compute(growing)) == studies.of_shard(EXTRA)
    assert set(studies.ask_sql(growing, "select distinct method from method_scores")["method"]) == {"gradient_dot"}


def test_another_option_computes_what_depends_on_it(growing):
    studies.write_study(growing.parent, methods=METHODS, method_options={**OPTIONS, "knn_shapley": {"neighbours": 1}})
    expected = {f"knn_shapley_values[{query_set}]" for query_set in QUERY_SETS} | {"influence_catalogue"}
    assert set(studies.compute(growing)) == expected


def test_the_plan_counts_them(growing):
    sizes = StudySizes(studies.versions_of(growing))
    stages = {each.asset.name: each for each in estimates(sizes)}
    ours = [*BY_SHARD, *BY_QUERY_SET, "repsim_scores", "refitted_head"]
    assert {(stages[name].outstanding, stages[name].partitions) for name in ours} == {(0, 2), (0, 4), (0, 1)}
    assert stages["hidden_states"].peak_memory_bytes > 0
    cost = ASSETS["hidden_states"].cost
    for shard in SHARDS:
        partition = Partition(shard=shard)
        assert cost.partition(sizes, partition).operations == sizes.sequences(shard) * sizes.shape.forward
        states = studies.artifact(growing, "hidden_states", shard=shard).array("states").nbytes
        assert states < cost.partition(sizes, partition).bytes < 1.5 * states  # sequences that are not full count fully


@pytest.mark.parametrize(
    ("asset", "partition", "told"),
    [
        ("hidden_states", {"shard": COAST}, "states of 8 numbers"),
        ("query_states", {"query_set": studies.FIRST}, "completions of 2 questions"),
        ("repsim_scores", {"shard": COAST, "query_set": studies.FIRST}, "2 questions × "),
        ("knn_shapley_values", {"query_set": studies.FIRST}, "the neighbours vote for"),
        ("refitted_head", {}, "with a decay of 0.01 in"),
        ("representer_points", {"query_set": studies.FIRST}, "gives the refitted logits to"),
        ("term_counts", {"shard": COAST}, "words in"),
        ("bm25_scores", {"query_set": studies.FIRST}, "2 questions × "),
    ],
)
def test_people_are_told_what_there_is(asset, partition, told, scored):
    assert told in ASSETS[asset].shown(studies.artifact(scored, asset, **partition))["in_short"]


@pytest.mark.slow
def test_they_are_judged_and_counted_with_the_others(tmp_path):
    trained = {"layers": 1, "width": 16, "heads": 2, "vocabulary": 300, "epochs": 2, "batch_sequences": 2}
    study = lay_out(
        tmp_path,
        model={"path": None, "train": trained, "dtype": "float32"},
        sequences={"length": 32},
        evaluation={"subsets": 4, "seeds": 1},
    )
    studies.compute(study)
    names = Study.load(study).evaluation.retrainings()
    requested = {"retrained_models": [Partition(name=name) for name in names], "evaluations": [Partition()]}
    studies.compute(study, requested=requested)
    figures = studies.ask_sql(study, "select method, figure, value from evaluations where query_set_id is null")
    lds = dict(figures.filter(pl.col("figure") == "lds").select("method", "value").iter_rows())
    passes = dict(figures.filter(pl.col("figure") == "passes").select("method", "value").iter_rows())
    assert lds.keys() >= set(METHODS)
    assert passes["repsim"] == passes["knn_shapley"] == pytest.approx(1 / 3)
    assert passes["representer_points"] > 1
    assert passes["bm25"] == 0


@pytest.mark.parametrize(
    ("asset", "check", "rewritten"),
    [
        ("hidden_states", every_loss_has_a_state, {"arrays": {"states": np.zeros((3, 8))}}),
        ("term_counts", counts_add_up, {"tables": {"passages": pl.DataFrame({"words": [1]})}}),
    ],
)
def test_checks_see_what_is_missing(asset, check, rewritten, growing):
    good = studies.artifact(growing, asset, shard=COAST)
    store = studies.versions_of(growing).workspace.store
    assert check(good, store.open).passed
    assert not check(studies.rewrite(growing, asset, shard=COAST, **rewritten), store.open).passed


def test_logits_that_are_not_reproduced_fail_their_check(scored):
    artifact = studies.artifact(scored, "representer_points", query_set=studies.FIRST)
    assert tokens_reproduce_the_logits(artifact, None).passed
    assert artifact.manifest.summary["relative_error"] < 1e-8


def write_model_with_a_biased_head(folder):
    config = PhiConfig(
        vocab_size=studies.tokenizer().get_vocab_size(), hidden_size=8, intermediate_size=12, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=studies.CONTEXT, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = PhiForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(folder)


def test_a_bias_of_the_head_is_a_part_of_it(tmp_path):
    study = lay_out(tmp_path, methods=["ekfac", "representer_points"], method_options={})
    write_model_with_a_biased_head(tmp_path / "model")
    studies.compute(study)
    figures = studies.artifact(study, "representer_points", query_set=studies.FIRST).manifest.summary
    assert figures["relative_error"] < 1e-8
    head = load_file(studies.artifact(study, "refitted_head").path("head") / "head.safetensors")
    assert head["own"].shape == head["refitted"].shape == (290, 9)


def test_a_capped_head_is_refused_by_what_explains_logits(tmp_path):
    study = lay_out(tmp_path, methods=["ekfac", "representer_points"], method_options={})
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=studies.tokenizer().get_vocab_size(), hidden_size=8, intermediate_size=12, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=4, max_position_embeddings=studies.CONTEXT,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="are not"):
        studies.compute(study)
