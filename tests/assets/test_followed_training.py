"""Methods that follow the model's training, in a whole study."""

import numpy as np
import polars as pl
import pytest
import torch
from transformers import GPT2LMHeadModel

from influence_assets.assets import asset_graph, open_workspace
from influence_assets.assets.study_sizes import StudySizes
from influence_assets.engine.partitions import Partition
from influence_assets.errors import InputError
from influence_assets.layouts.retraining import training_tokens
from influence_assets.layouts.sequences import shard_sequences
from influence_assets.layouts.trajectory import second_moments, stored_checkpoints
from influence_assets.models.layers.selection import select_modules
from influence_assets.models.replay import current_state
from influence_assets.models.training import new_run
from influence_assets.models.trajectory import learning_rates
from influence_assets.study import Study
from influence_assets.upkeep.forget import withdraw
from tests import studies
from tests.oracles import gradients as oracle
from tests.tiers import slow_but

TRAINED = {"layers": 1, "width": 16, "heads": 2, "vocabulary": 300, "epochs": 3, "batch_sequences": 2, "seed": 3}
FOLLOWING = ["tracin", "adam_metric", "metagradient", "in_run_shapley"]
METHODS = ["ekfac", "gradient_dot", "unrolled", *FOLLOWING]
OPTIONS = {
    "tracin": {"checkpoints": 3},
    "metagradient": {"queries": ["baker"]},
    "unrolled": {"learning_rates": 1e-9},
}
MODEL = {"path": None, "train": TRAINED, "dtype": "float64"}


def laid_out(folder, methods=METHODS, options=OPTIONS, **sections):
    sections = {"model": MODEL, "sequences": {"length": 48}, **sections}
    return studies.lay_out(folder, methods=methods, method_options=options, **sections)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    study = laid_out(tmp_path_factory.mktemp("followed"))
    studies.compute(study)
    return study


def shards_of(study):
    return [studies.artifact(study, "token_sequences", shard=shard) for shard in sorted(studies.SHARDS)]


def run_again(study):
    tokenizer = studies.tokenizer_of(studies.artifact(study, "language_model"))
    return new_run(training_tokens(shards_of(study)), Study.load(study).model.train, tokenizer)


def rows_of(study, method, table="method_scores"):
    return studies.ask_sql(study, f"select * from {table} where method = '{method}'")


def test_all_is_computed_once(followed):
    assert studies.compute(followed) == []


def test_the_training_run_again_ends_with_the_models_bits(followed):
    trajectory = studies.artifact(followed, "training_trajectory")
    of_sets = [studies.artifact(followed, "in_run_shapley", query_set=name) for name in studies.QUERY_SETS]
    for artifact in (trajectory, *of_sets, studies.artifact(followed, "metagradient", query_set=studies.FIRST)):
        summary = artifact.manifest.summary
        assert summary["equal_to_the_bit"] is True
        assert summary["largest_difference"] == 0
        assert "notes" not in summary


def test_a_trajectory_is_what_the_training_passed_through(followed):
    trajectory = studies.artifact(followed, "training_trajectory")
    model, run = run_again(followed)
    rates = learning_rates(run)
    assert trajectory.table("steps").collect()["learning_rate"].to_list() == rates
    steps = trajectory.table("checkpoints").collect()["step"].to_list()
    assert len(steps) == 3
    stored = list(stored_checkpoints(trajectory, GPT2LMHeadModel(model.config)))
    assert sum(rate for _, rate in stored) == pytest.approx(sum(rates))
    loaded = GPT2LMHeadModel(model.config)
    while run.step < run.steps:
        if run.step in steps:
            list(stored_checkpoints(trajectory, loaded))[steps.index(run.step)][0]()
            assert all(torch.equal(p, run.parameters[name]) for name, p in loaded.named_parameters())
        run.take_step()
    v = current_state(run).v
    for name, value in second_moments(trajectory).items():
        torch.testing.assert_close(value, v[name] / (1 - 0.95**run.steps))


def test_tracin_is_the_sum_over_checkpoints(followed):
    trajectory, language_model = (studies.artifact(followed, n) for n in ("training_trajectory", "language_model"))
    model = GPT2LMHeadModel.from_pretrained(language_model.path("model")).double().eval().requires_grad_(False)
    tokenizer = studies.tokenizer_of(language_model)
    modules = select_modules(model, language_model.manifest.summary.get("attributed_by_default", "mlp"))
    tokens = sum(int(shard_sequences(shard).counted_tokens().sum()) for shard in shards_of(followed))
    prompt = "The baker rises at"
    text = torch.tensor(tokenizer.encode(prompt + " three").ids)
    start = len(tokenizer.encode(prompt).ids)
    expected = {}
    for load, rates in stored_checkpoints(trajectory, model):
        load()
        with oracle.Unfrozen(modules):
            f = oracle.sequence_gradient(modules, oracle.log_likelihood(model, text, start))
        for shard in shards_of(followed):
            sequences = shard_sequences(shard)
            L, _ = oracle.gradients(model, modules, sequences, sign=-1)
            for row, key in enumerate(sequences.keys.tolist()):
                product = sum(float((f[m.name] * L[m.name][row]).sum()) for m in modules)
                expected[key] = expected.get(key, 0) - rates / tokens * product
    found = rows_of(followed, "tracin").filter(query_id="baker")
    assert set(found["unit"]) == {"sgd_nats"}
    assert dict(found.select("sequence_id", "score").rows()) == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_adams_metric_is_that_of_the_moments_at_the_end(followed):
    """Divided by √v̂ + ε, as a product over all weights of the layers: by autograd, one sequence at a time."""
    trajectory, language_model = (studies.artifact(followed, n) for n in ("training_trajectory", "language_model"))
    v, figures = second_moments(trajectory), trajectory.manifest.summary
    model = GPT2LMHeadModel.from_pretrained(language_model.path("model")).double().eval().requires_grad_(False)
    modules = select_modules(model, language_model.manifest.summary.get("attributed_by_default", "mlp"))
    names = {id(p): name for name, p in model.named_parameters()}
    chosen = [p for module in modules for p in module.module.parameters(recurse=False)]

    def gradient(text, start):
        with oracle.Unfrozen(modules):
            return torch.autograd.grad(oracle.log_likelihood(model, text, start), chosen)

    tokenizer = studies.tokenizer_of(language_model)
    text = torch.tensor(tokenizer.encode("The baker rises at three").ids)
    f = gradient(text, len(tokenizer.encode("The baker rises at").ids))
    divided = [g / (v[names[id(p)]].double().sqrt() + 1e-8) for g, p in zip(f, chosen, strict=True)]
    sequences = shard_sequences(shards_of(followed)[0])
    expected = {}
    for row, key in enumerate(sequences.keys.tolist()):
        tokens = torch.from_numpy(sequences.tokens[row, : sequences.lengths[row]].astype(np.int64))
        product = sum(float((x * y).sum()) for x, y in zip(divided, gradient(tokens, 1), strict=True))
        expected[key] = figures["learning_rate_sum"] / figures["training_tokens"] * product
    found = dict(rows_of(followed, "adam_metric").filter(query_id="baker").select("sequence_id", "score").rows())
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_a_short_training_unrolled_is_the_gradient_product(followed):
    """With ηK = 1e-9, as the study has it, by which scores are scaled."""
    unrolled, product = (
        rows_of(followed, method).sort("query_id", "sequence_id")["score"] for method in ("unrolled", "gradient_dot")
    )
    np.testing.assert_allclose(unrolled, 1e-9 * product, rtol=1e-4, atol=1e-9 * float(product.abs().max()) * 1e-6)


@pytest.mark.parametrize("method", FOLLOWING)
def test_parts_sum_to_their_sequences(followed, method):
    sequences = rows_of(followed, method).select("query_id", "sequence_id", "score")
    parts = rows_of(followed, method, "method_part_scores").group_by("query_id", "sequence_id")
    both = parts.agg(total=pl.col("score").sum()).join(sequences, on=["query_id", "sequence_id"])
    assert both.height
    np.testing.assert_allclose(both["total"], both["score"], rtol=1e-6, atol=1e-9)


def test_each_trained_sequence_has_a_score_for_the_queries_that_are_asked(followed):
    sequences = {key for shard in shards_of(followed) for key in shard_sequences(shard).keys.tolist()}
    found = rows_of(followed, "metagradient")
    assert set(found["query_id"]) == {"baker"}
    assert sorted(found["sequence_id"]) == sorted(sequences)
    found = rows_of(followed, "in_run_shapley")
    assert found["query_id"].n_unique() == 3
    assert found.height == 3 * len(sequences)


def test_replayed_queries_have_the_log_probabilities_of_the_model(followed):
    own = studies.ask_sql(followed, "select query_id, log_probability_nats from queries")
    own = dict(own.rows())
    for method in ("metagradient", "in_run_shapley"):
        replayed = studies.artifact(followed, method, query_set=studies.FIRST).table("replayed_queries").collect()
        for query_id, value in replayed.rows():
            assert value == pytest.approx(own[query_id], abs=1e-4)


def test_the_model_has_its_own_weights_afterwards(followed):
    """Scores of the main method agree with those of a study that follows nothing."""
    from influence_assets.layouts.model import load_model

    artifact = studies.artifact(followed, "language_model")
    workspace = open_workspace(Study.load(followed))
    loaded = load_model(workspace, artifact.path("model"), str(artifact.manifest.summary["weights_hash"]))
    fresh = GPT2LMHeadModel.from_pretrained(artifact.path("model")).state_dict()
    assert all(torch.equal(p, fresh[name].double()) for name, p in loaded.named_parameters())


def test_a_new_shard_is_scored_and_no_training_is_followed_again(followed, tmp_path):
    study = studies.copied(followed, tmp_path)
    studies.write_extra(study)
    computed = studies.compute(study)
    followed_now = [name for name in computed if name.startswith((*FOLLOWING, "training_trajectory"))]
    assert sorted(followed_now) == sorted(
        f"{method}[{name}|{studies.EXTRA}]" for method in FOLLOWING[:2] for name in studies.QUERY_SETS
    )


def test_after_a_withdrawal_what_follows_the_training_says_that_it_is_another(followed, tmp_path):
    study = studies.copied(followed, tmp_path)
    workspace = open_workspace(Study.load(study))
    document = studies.ask_sql(study, "select document_id from documents where title = 'Smith'")["document_id"][0]
    withdraw(workspace, [document], "asked for")
    computed = studies.compute(study)
    assert "training_trajectory" not in computed
    assert f"tracin[{studies.FIRST}|{studies.TRADES}]" in computed
    assert f"tracin[{studies.FIRST}|{studies.COAST}]" not in computed
    summary = studies.artifact(study, "metagradient", query_set=studies.FIRST).manifest.summary
    assert summary["equal_to_the_bit"] is False
    assert summary["largest_difference"] > 0
    assert any("does not end with the model's weights" in note for note in summary["notes"])


@pytest.mark.slow
def test_sgds_values_are_of_another_training(tmp_path):
    study = laid_out(
        tmp_path,
        ["ekfac", "in_run_shapley"],
        {"in_run_shapley": {"optimizer": "sgd", "learning_rate": 0.01, "queries": 1}},
    )
    studies.compute(study)
    assert "equal_to_the_bit" not in studies.artifact(study, "in_run_shapley", query_set=studies.FIRST).manifest.summary
    found = rows_of(study, "in_run_shapley")
    assert found["query_id"].n_unique() == 2
    assert found["score"].is_finite().all()


@pytest.mark.parametrize(
    "method", slow_but("tracin", of=FOLLOWING, slow=["adam_metric", "metagradient", "in_run_shapley"])
)
def test_a_model_that_is_not_trained_here_is_refused(tmp_path, method):
    study = studies.lay_out(tmp_path, methods=["ekfac", method])
    with pytest.raises(InputError, match=f"lists {method}, which follows the model's training"):
        studies.compute(study)


@pytest.mark.slow
def test_a_query_that_is_gone_has_no_rows_and_holds_nothing_up(tmp_path):
    study = laid_out(tmp_path, ["ekfac", "metagradient"], {"metagradient": {"queries": ["cook"]}})
    assert "influence_catalogue" in studies.compute(study)
    assert studies.ask_sql(study, "select * from method_scores where method = 'metagradient'").is_empty()
    for manifest in studies.versions_of(study).workspace.store.manifests("metagradient"):
        (note,) = manifest.summary["notes"]
        assert note == "method_options.metagradient.queries names queries that no file has, which are left out: cook."


@pytest.mark.parametrize(
    "method", ["tracin", "in_run_shapley", "metagradient", "unrolled", "leave_one_out", "data_shapley", "datamodels"]
)
def test_what_a_brought_model_cannot_have_is_refused_before_anything_is_computed(method, tmp_path):
    options = {"method_options": {method: {"groups": ["x"]}}} if method == "leave_one_out" else {}
    study = studies.lay_out(tmp_path, methods=["ekfac", method], **options)
    with pytest.raises(InputError, match=r"does not train"):
        open_workspace(Study.load(study))


@pytest.mark.slow
def test_methods_that_are_asked_about_some_queries_are_not_judged(tmp_path):
    """Their scores of the other queries are not zero, but unknown."""
    drawn = {"subsets": 5, "seeds": 1, "removal_queries": 1}
    study = laid_out(tmp_path, ["ekfac", "tracin", "metagradient"], {"metagradient": {"queries": 1}}, evaluation=drawn)
    names = Study.load(study).evaluation.retrainings()
    requested = {"retrained_models": [Partition(name=name) for name in names], "evaluations": [Partition()]}
    studies.compute(study)
    studies.compute(study, requested=requested)
    judged = set(studies.ask_sql(study, "select method from evaluations where figure = 'lds'")["method"])
    assert {"ekfac", "tracin"} <= judged
    assert "metagradient" not in judged


def test_what_they_cost_is_forecast(followed):
    """In operations: for each query, 2 trainings more of `metagradient` and half of one of `in_run_shapley`."""
    sizes = StudySizes(studies.versions_of(followed))
    graph = asset_graph()
    pair, query_set = Partition(studies.COAST, studies.FIRST), Partition(query_set=studies.FIRST)
    training = graph["training_trajectory"].cost.partition(sizes, Partition())
    assert training.operations == graph["language_model"].cost.partition(sizes, Partition()).operations > 0
    assert graph["metagradient"].cost.partition(sizes, query_set).operations == (3 + 2 * 1) * training.operations
    assert graph["in_run_shapley"].cost.partition(sizes, query_set).operations == (3 + 0.5 * 2) * training.operations
    of_pairs = {name: graph[name].cost.partition(sizes, pair).operations for name in FOLLOWING[:2]}
    assert of_pairs["tracin"] == pytest.approx(3 * of_pairs["adam_metric"])
    assert of_pairs["adam_metric"] > 0
    assert all(graph[name].cost.memory(sizes) > 0 for name in [*FOLLOWING, "training_trajectory"])
    stored = studies.artifact(followed, "training_trajectory").manifest
    assert training.bytes == pytest.approx(stored.bytes, rel=0.2)
