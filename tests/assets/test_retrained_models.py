"""Models that are trained again on parts of the corpus, and scores that are judged by them, in whole studies."""

import shutil

import numpy as np
import polars as pl
import pytest
import torch
from transformers import GPT2LMHeadModel

from influence_assets.analysis.word_overlap import bm25_scores
from influence_assets.assets import asset_graph, open_workspace
from influence_assets.assets.retrained_removals import removals
from influence_assets.assets.retraining import checkpoint, recipe_of
from influence_assets.assets.study_sizes import StudySizes
from influence_assets.corpus.subsets import drawn_units, part_of
from influence_assets.engine.partitions import Partition
from influence_assets.errors import InputError
from influence_assets.layouts.retraining import Units, training_tokens
from influence_assets.models.fine_tuning import fine_tune
from influence_assets.models.training import train_language_model
from influence_assets.report.page import everything_shown
from influence_assets.storage.catalogue import query
from influence_assets.study import Study
from influence_assets.upkeep.garbage import collect
from tests import studies
from tests.commanding import influence

TRAINED = {"layers": 1, "width": 16, "heads": 2, "vocabulary": 300, "epochs": 2, "batch_sequences": 2, "seed": 3}
DRAWN = {
    "subsets": 5, "seeds": 2, "keep_weights": True, "removal_queries": 2, "removal_share": 0.2, "random_removals": 2,
}  # fmt: skip


def laid_out(folder, evaluation):
    model = {"path": None, "train": TRAINED, "dtype": "float32"}
    return studies.lay_out(folder, model=model, evaluation=evaluation, sequences={"length": 32})


def requested(study, subsets=None):
    names = Study.load(study).evaluation.retrainings()[:subsets]
    return {"retrained_models": [Partition(name=name) for name in names], "evaluations": [Partition()]}


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A study with all of its models trained, and its scores judged."""
    folder = tmp_path_factory.mktemp("judged")
    study = laid_out(folder, DRAWN)
    studies.compute(study)
    studies.compute(study, requested=requested(study))
    return study


def opened(study, asset, partition=None):
    versions = studies.versions_of(study)
    key = versions.key(versions.workspace.graph[asset], partition or Partition())
    return versions.workspace.store.open(key)


def shards_of(study):
    return [opened(study, "token_sequences", Partition(shard=shard)) for shard in studies.SHARDS]


def test_nothing_is_trained_again_unless_asked(tmp_path):
    study = laid_out(tmp_path, DRAWN)
    computed = studies.compute(study)
    assert not [name for name in computed if name.startswith(("retrained_models", "evaluations"))]
    assert studies.compute(study) == []


def test_training_on_everything_again_gives_the_very_model(judged, tmp_path):
    shards, study = shards_of(judged), Study.load(judged)
    model = opened(judged, "language_model")
    tokenizer = studies.tokenizer_of(model)
    whole = training_tokens(shards)
    part = part_of(whole, np.ones((len(whole.tokens), 1), np.bool_))
    again = train_language_model(
        part.tokens, part.lengths, study.model.train,
        tokenizer=tokenizer, workspace=tmp_path, progress=lambda _state: None, loss_mask=part.loss,
    )  # fmt: skip
    expected = GPT2LMHeadModel.from_pretrained(model.path("model")).state_dict()
    weights = GPT2LMHeadModel.from_pretrained(again.folder).state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("number", [0, 7])
def test_the_outcome_is_the_log_probability_under_a_model_trained_on_the_subset(judged, number):
    """By hand: the sequences of the subset alone, and the loss of the completion's tokens, one query at a time."""
    partition = Partition(name=Study.load(judged).evaluation.retrainings()[number])
    artifact = opened(judged, "retrained_models", partition)
    model = GPT2LMHeadModel.from_pretrained(artifact.path("model")).eval()
    tokenizer = studies.tokenizer_of(opened(judged, "language_model"))
    outcomes = dict(artifact.table("outcomes").select("query_id", "log_probability_nats").collect().rows())
    queries = pl.concat(
        opened(judged, "query_gradients", Partition(query_set=name)).table("queries").collect()
        for name in studies.QUERY_SETS
    )
    for row in queries.iter_rows(named=True):
        ids = torch.tensor(tokenizer.encode(row["prompt"] + row["completion"]).ids)
        with torch.no_grad():
            log_p = model(ids[None]).logits[0].log_softmax(-1)
        start = len(ids) - row["completion_tokens"]
        expected = sum(float(log_p[at - 1, ids[at]]) for at in range(start, len(ids)))
        assert outcomes[row["query_id"]] == pytest.approx(expected, abs=1e-4)
    assert set(outcomes) == set(queries["query_id"])


def test_its_pictures_are_drawn(judged):
    shown = everything_shown(asset_graph()["evaluations"], opened(judged, "evaluations"))
    for name in ("fidelity", "fidelity_and_cost", "calibration"):
        assert shown[name].png.startswith(b"\x89PNG")
    predictions = opened(judged, "evaluations").table("predictions").collect()
    assert predictions.height == 3 * 5
    changes = pl.col("predicted_nats", "measured_nats")
    means = predictions.group_by("query_id").agg(changes.mean())
    assert means.select(changes.abs().max()).row(0) == pytest.approx((0, 0), abs=1e-9)


def test_a_subset_is_that_share_of_the_sequences_and_both_seeds_share_it(judged):
    ids = [str(key) for shard in shards_of(judged) for key in shard.table("sequences").collect()["sequence_id"]]
    names = Study.load(judged).evaluation.retrainings()
    models = {name: opened(judged, "retrained_models", Partition(name=name)) for name in names}
    left_out = {name: set(model.table("left_out").collect()["unit"]) for name, model in models.items()}
    for name, missing in left_out.items():
        assert missing < set(ids)
        assert len(ids) - len(missing) == round(len(ids) / 2)
        assert models[name].manifest.summary["training_sequences"] == len(ids) - len(missing)
        assert missing == left_out[f"{name[:-1]}1"]
    assert len({frozenset(missing) for missing in left_out.values()}) > 1


def test_the_board_is_that_of_the_tables(judged):
    """The linear datamodeling score of EK-FAC, from the tables alone, one query at a time."""
    from scipy.stats import spearmanr

    catalogue = studies.versions_of(judged).workspace.catalogue
    outcomes = query(catalogue, "select * from outcomes")
    scores = query(catalogue, "select query_id, sequence_id::varchar as unit, influence_nats from current_scores")
    assert outcomes.height == 10 * 3
    names = Study.load(judged).evaluation.retrainings()
    kept = {}
    for name in names:
        artifact = opened(judged, "retrained_models", Partition(name=name))
        kept[artifact.manifest.summary["subset"]] = set(artifact.table("left_out").collect()["unit"])
    correlations = []
    for query_id in outcomes["query_id"].unique():
        of_query = scores.filter(pl.col("query_id") == query_id)
        measured, predicted = [], []
        for subset, missing in sorted(kept.items()):
            rows = outcomes.filter(pl.col("query_id") == query_id, pl.col("subset") == subset)
            measured.append(rows["log_probability_nats"].mean())
            predicted.append(of_query.filter(~pl.col("unit").is_in(list(missing)))["influence_nats"].sum())
        correlations.append(spearmanr(predicted, measured).statistic)
    sql = "select value from evaluations where method = 'ekfac' and figure = 'lds' and query_set_id is null"
    assert query(catalogue, sql).item() == pytest.approx(np.mean(correlations))
    methods = set(query(catalogue, "select distinct method from evaluations")["method"])
    assert methods == {"ekfac", "ekfac_calibrated", "ekfac_threshold", "gradient_dot", "bm25", "random", "retraining"}


def test_few_questions_leave_the_default_constant(judged):
    catalogue = studies.versions_of(judged).workspace.catalogue
    assert query(catalogue, "from calibration").row(0) == (10.0, False, None)


def test_costs_are_those_that_the_plan_counts_and_the_manifests_hold(judged):
    """Passes beside what `influence plan` counts for the same assets; bytes beside the sizes of the files."""
    versions = studies.versions_of(judged)
    sizes, graph = StudySizes(versions), versions.workspace.graph
    rows = query(versions.workspace.catalogue, "from evaluations where figure in ('passes', 'bytes')")
    found = {(row["method"], row["figure"]): row["value"] for row in rows.iter_rows(named=True)}
    one_pass = sizes.all_sequences() * sizes.shape.passes()
    stages = ("covariances", "eigenbases", "corrected_eigenvalues")
    planned = sum(graph[name].cost.partition(sizes, Partition()).operations for name in stages)
    drift = sizes.shards * sizes.shape.drift()  # measured on the way, and no part of the method
    difference = found["ekfac", "passes"] - found["gradient_dot", "passes"]
    assert difference == pytest.approx((planned - drift) / one_pass)
    asked = sum(map(len, sizes.query_tokens.values()))
    scoring = one_pass + sizes.shape.scores(asked, sizes.all_sequences())
    assert found["gradient_dot", "passes"] == pytest.approx(scoring / one_pass)
    curvature = sum(opened(judged, name).manifest.bytes for name in ("eigenbases", "curvature"))
    assert found["ekfac", "bytes"] > curvature > 0
    for name in ("ekfac_calibrated", "ekfac_threshold"):
        assert found[name, "bytes"] == found["ekfac", "bytes"]
    for name in ("bm25", "random"):
        assert found[name, "passes"] == found[name, "bytes"] == 0


@pytest.mark.slow
def test_a_file_more_leaves_the_models_and_a_changed_one_does_not(judged, tmp_path):
    study = studies.copied(judged, tmp_path / "copy")
    studies.write_extra(study)
    studies.compute(study)
    sql = "select count(*) as n from outcomes"
    assert query(studies.versions_of(study).workspace.catalogue, sql).item() == 30
    rows = [*studies.COAST_ROWS[:-1], {"text": "Gulls sleep on the sand."}]
    studies.write_jsonl(study.parent / "corpus" / studies.COAST, rows)
    studies.compute(study)
    assert query(studies.versions_of(study).workspace.catalogue, sql).item() == 0


@pytest.mark.slow
def test_further_subsets_add_partitions(judged, tmp_path):
    study = studies.copied(judged, tmp_path / "copy")
    studies.write_study(
        study.parent, model={"path": None, "train": TRAINED, "dtype": "float32"},
        evaluation=DRAWN | {"subsets": 6}, sequences={"length": 32},
    )  # fmt: skip
    computed = studies.compute(study, requested=requested(study))
    assert [name for name in computed if name.startswith("retrained")] == [
        "retrained_models[subset-0005.seed-1]", "retrained_models[subset-0005.seed-2]",
    ]  # fmt: skip


@pytest.mark.slow
def test_too_few_models_judge_nothing(tmp_path):
    study = laid_out(tmp_path, {"subsets": 4, "seeds": 1})
    studies.compute(study)
    with pytest.raises(InputError, match="3 subsets have models"):
        studies.compute(study, requested=requested(study, 3))


def test_a_query_that_is_too_long_is_refused_before_training(judged, tmp_path):
    study = studies.copied(judged, tmp_path / "copy")
    studies.write_jsonl(study.parent / "queries" / "long.jsonl", [{"prompt": "lamp " * 40, "completion": " x"}])
    with pytest.raises(InputError, match="more than the model's context"):
        studies.compute(study, requested={"retrained_models": requested(study, 1)["retrained_models"]})
    assert list((study.parent / "store" / ".training").iterdir()) == []


@pytest.mark.slow
def test_a_model_that_was_brought_cannot_be_trained_again(tmp_path):
    study = studies.lay_out(tmp_path, evaluation=DRAWN)
    studies.compute(study)
    with pytest.raises(InputError, match="names a model that the study does not train"):
        studies.compute(study, requested=requested(study, 1))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A study of a brought model with the checkpoint that it came from, and one of its models trained again."""
    folder = tmp_path_factory.mktemp("tuned")
    studies.write_model(folder / "base", seed=1)
    recipe = {"base": "base", "epochs": 2, "batch_sequences": 3, "learning_rate": 0.01, "seed": 5}
    study = studies.lay_out(folder, model={"tuned": recipe}, evaluation=DRAWN)
    studies.compute(study)
    models = {"retrained_models": requested(study, 2)["retrained_models"]}
    assert len([name for name in studies.compute(study, requested=models) if name.startswith("retrained")]) == 2
    return study


def test_a_fine_tuned_model_is_trained_again_from_its_checkpoint(tuned, tmp_path):
    artifact = opened(tuned, "retrained_models", Partition(name="subset-0000.seed-2"))
    units = Units.of("sequence", shards_of(tuned), [])
    drawn = drawn_units(len(units.names), 0.5, seed=0, subset=0)
    part = part_of(training_tokens(shards_of(tuned)), units.is_kept(drawn))
    recipe = Study.load(tuned).model.tuned.model_copy(update={"seed": 7})
    trained = fine_tune(
        tuned.parent / "base", "", part, recipe,
        device="cpu", workspace=tmp_path, progress=lambda _state: None,
    )  # fmt: skip
    expected = GPT2LMHeadModel.from_pretrained(trained.folder).state_dict()
    model = GPT2LMHeadModel.from_pretrained(artifact.path("model")).eval()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    outcomes = dict(artifact.table("outcomes").select("query_id", "log_probability_nats").collect().rows())
    queries = opened(tuned, "query_gradients", Partition(query_set=studies.FIRST)).table("queries").collect()
    tokenizer = studies.tokenizer_of(opened(tuned, "language_model"))
    for row in queries.iter_rows(named=True):
        ids = torch.tensor(tokenizer.encode(row["prompt"] + row["completion"]).ids)
        with torch.no_grad():
            log_p = model(ids[None]).logits[0].log_softmax(-1)
        start = len(ids) - row["completion_tokens"]
        by_hand = sum(float(log_p[at - 1, ids[at]]) for at in range(start, len(ids)))
        assert outcomes[row["query_id"]] == pytest.approx(by_hand, abs=1e-4)


def test_another_checkpoint_makes_another_bank_and_no_other_scores(tuned, tmp_path):
    study = studies.copied(tuned, tmp_path / "copy")
    before = studies.data_versions(study)
    partition, graph = Partition(name="subset-0000.seed-1"), asset_graph()
    keys = [studies.versions_of(study).key(graph["retrained_models"], partition)]
    studies.write_model(study.parent / "base", seed=2)
    keys.append(studies.versions_of(study).key(graph["retrained_models"], partition))
    assert keys[0] != keys[1]
    after = studies.data_versions(study)
    assert after["language_model"] == before["language_model"]


def test_without_the_checkpoint_only_training_fails(tuned, tmp_path):
    """Its models leave the tables, because nobody knows any more that they are current; nothing else needs it."""
    study = studies.copied(tuned, tmp_path / "copy")
    shutil.rmtree(study.parent / "base")
    studies.write_jsonl(study.parent / "corpus" / studies.COAST, studies.COAST_ROWS[1:])
    assert "influence_catalogue" in studies.compute(study)
    collect(open_workspace(Study.load(study)), keep=0)
    with pytest.raises(InputError, match=r"model\.tuned\.base"):
        studies.compute(study, requested={"retrained_models": requested(study, 1)["retrained_models"]})


def test_a_checkpoint_that_is_the_model_itself_is_refused(tmp_path):
    study = studies.lay_out(tmp_path, model={"tuned": {"base": "model"}}, evaluation=DRAWN)
    with pytest.raises(InputError, match=r"model\.tuned\.base: has the weights of the model in model\.path"):
        checkpoint(open_workspace(Study.load(study)))


def test_an_adapter_is_not_trained_again(tmp_path):
    study = studies.lay_out(tmp_path, model={"adapter": "adapter", "tuned": {"base": "model"}})
    with pytest.raises(InputError, match=r"model\.adapter: names an adapter, which cannot be trained again"):
        recipe_of(Study.load(study), 1)


@pytest.mark.parametrize(("by", "expected"), [("document", 7), ("source", 2)])
def test_units_are_documents_or_values_of_a_column(judged, by, expected):
    documents = [opened(judged, "documents", Partition(shard=shard)) for shard in studies.SHARDS]
    units = Units.of(by, shards_of(judged), documents)
    assert len(units.names) == expected
    drawn = drawn_units(expected, 0.5, seed=0, subset=1)
    kept = units.is_kept(drawn)
    spans = units.spans
    tokens = np.zeros(kept.shape, np.int64)
    for row in spans.iter_rows(named=True):
        tokens[row["row"], row["token_start"] : row["token_end"]] += 1
        assert (kept[row["row"], row["token_start"] : row["token_end"]] == drawn[row["unit"]]).all()
    lengths = np.concatenate([shard.array("lengths") for shard in shards_of(judged)])
    assert (tokens.sum(1) == lengths).all()
    assert tokens.max() == 1


def test_what_is_left_out_has_no_loss_and_the_rest_has_its_own(judged):
    whole = training_tokens(shards_of(judged))
    generator = np.random.default_rng(0)
    kept = generator.random(whole.tokens.shape) < 0.3
    kept[2] = False
    part = part_of(whole, kept)
    remaining = [row for row in range(len(whole.tokens)) if kept[row, 1 : whole.lengths[row]].any()]
    assert 2 not in remaining
    assert np.array_equal(part.tokens, whole.tokens[remaining])
    for row, of_row in enumerate(remaining):
        length = whole.lengths[of_row]
        assert np.array_equal(part.loss[row, 1:length].astype(bool), kept[of_row, 1:length])


@pytest.fixture(scope="module")
def removed(judged, tmp_path_factory):
    """The same study, with models that lack what each method scores highest."""
    study = studies.copied(judged, tmp_path_factory.mktemp("removed") / "copy")
    names = removals(Study.load(study))
    assert len(names) == 2 * (2 + 2 * 3)
    wanted = {"retrained_removals": [Partition(name=name) for name in names], "evaluations": [Partition()]}
    studies.compute(study, requested=wanted)
    return study


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ekfac", "gradient_dot", "bm25"])
def test_what_a_method_scores_highest_is_removed(removed, method):
    catalogue = studies.versions_of(removed).workspace.catalogue
    sequences = query(catalogue, "select sequence_id, text from sequences order by sequence_id")
    for number in (0, 1):
        artifact = opened(removed, "retrained_removals", Partition(name=f"{method}-{number:02}.seed-2"))
        count, query_id = artifact.manifest.summary["removed"], artifact.manifest.summary["removed_for"]
        assert count == max(1, round(0.2 * sequences.height))
        if method == "bm25":
            text = query(
                catalogue, f"select prompt || completion as t from queries where query_id = '{query_id}'"
            ).item()
            scores = dict(zip(sequences["sequence_id"], bm25_scores(list(sequences["text"]), [text])[0], strict=True))
        else:
            table, score = ("current_scores", "influence_nats") if method == "ekfac" else ("method_scores", "score")
            rows = query(catalogue, f"select sequence_id, {score} from {table} where query_id = '{query_id}'")
            scores = dict(rows.rows())
        taken = artifact.table("removed_sequences").collect()["sequence_id"].to_list()
        assert len(taken) == count
        left = [scores[key] for key in sequences["sequence_id"] if key not in taken]
        assert min(scores[key] for key in taken) >= max(left)


@pytest.mark.slow
def test_random_removals_differ_and_are_as_many(removed):
    taken = [
        frozenset(
            opened(removed, "retrained_removals", Partition(name=f"random-{number:02}.seed-1"))
            .table("removed_sequences").collect()["sequence_id"]
        )
        for number in (0, 1)
    ]  # fmt: skip
    assert len(taken[0]) == len(taken[1])
    assert taken[0] != taken[1]


@pytest.mark.slow
def test_the_fall_is_that_of_the_tables(removed):
    catalogue = studies.versions_of(removed).workspace.catalogue
    rows = query(catalogue, "select * from removal_outcomes")
    falls = []
    for query_id in rows["removed_for"].drop_nulls().unique():
        of_query = rows.filter(pl.col("query_id") == query_id)
        at_random = of_query.filter(pl.col("method") == "random")["log_probability_nats"].mean()
        without = of_query.filter(pl.col("method") == "ekfac", pl.col("removed_for") == query_id)
        assert without.height == 2
        falls.append(at_random - without["log_probability_nats"].mean())
    assert len(falls) == 2
    found = query(catalogue, "select value from evaluations where method = 'ekfac' and figure = 'qld'").item()
    assert found == pytest.approx(np.mean(falls))


@pytest.mark.slow
def test_a_forgotten_document_takes_the_models_that_were_trained_on_its_corpus(removed, tmp_path):
    """No artifact of a model that saw it is left, whatever its subset."""
    study = studies.copied(removed, tmp_path / "copy")
    document = query(studies.versions_of(study).workspace.catalogue, "select document_id from documents").row(0)[0]
    finished = influence("forget", "--document", document, "--study", study)
    assert finished.code == 0, finished.err
    store = studies.versions_of(study).workspace.store
    held = [m for name in ("retrained_models", "retrained_removals", "evaluations") for m in store.manifests(name)]
    assert held == []
