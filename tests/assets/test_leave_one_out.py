"""Models that lack a group of the corpus, and what a group does for queries, in whole studies."""

import re

import numpy as np
import polars as pl
import pytest
import yaml

from influence_assets.assets import asset_graph, retraining_at_once
from influence_assets.assets.study_sizes import StudySizes
from influence_assets.capture.likelihoods import log_probabilities
from influence_assets.corpus.subsets import part_of
from influence_assets.engine.partitions import Partition
from influence_assets.errors import InputError
from influence_assets.forecast.estimates import estimates
from influence_assets.layouts.queries import as_sequences, read_tokenized
from influence_assets.layouts.retraining import Units, training_tokens
from influence_assets.models.loading import load_model
from influence_assets.models.training import train_language_model
from influence_assets.study import Study
from tests import studies
from tests.commanding import influence

TRAINED = {"layers": 1, "width": 16, "heads": 2, "vocabulary": 300, "epochs": 2, "batch_sequences": 2, "seed": 3}
SEEDS = 2


def laid_out(folder, method="leave_one_out", **options):
    """A study of three sources: `sea`, `land`, and documents without one."""
    study = studies.lay_out(folder)
    sources = ["sea", "sea", None, "land"]
    coast = [{**row, "source": source} for row, source in zip(studies.COAST_ROWS, sources, strict=True)]
    studies.write_jsonl(folder / "corpus" / studies.COAST, coast)
    studies.write_parquet(
        folder / "corpus" / studies.TRADES, [{**row, "source": "land"} for row in studies.TRADES_ROWS]
    )
    return write(study, method, **options)


def write(study, method="leave_one_out", methods=None, evaluation=None, **options):
    return studies.write_study(
        study.parent, model={"path": None, "train": TRAINED, "dtype": "float32"}, sequences={"length": 32},
        methods=methods or ["ekfac", method], method_options={method: options} if options else {},
        evaluation=evaluation or {},
    )  # fmt: skip


def opened(study, asset, partition=None):
    versions = studies.versions_of(study)
    return versions.workspace.store.open(versions.key(versions.workspace.graph[asset], partition or Partition()))


def retrained(study, folder, kept, seed, *, keeps_sequences=False):
    """The log-probabilities under a model that is trained here, on the tokens of some units by source."""
    shards = [opened(study, "token_sequences", Partition(shard=shard)) for shard in studies.SHARDS]
    documents = [opened(study, "documents", Partition(shard=shard)) for shard in studies.SHARDS]
    units = Units.of("source", shards, documents)
    is_kept = units.is_kept(np.isin(units.names, list(kept)))
    part = part_of(training_tokens(shards), is_kept, keeps_sequences=keeps_sequences)
    language_model = opened(study, "language_model")
    recipe = Study.load(study).model.train
    trained = train_language_model(
        part.tokens, part.lengths, recipe.model_copy(update={"seed": recipe.seed + seed}),
        tokenizer=studies.tokenizer_of(language_model), workspace=folder, progress=lambda _state: None,
        loss_mask=part.loss,
    )  # fmt: skip
    return said(study, trained.folder)


def said(study, folder):
    """The log-probability of each query under the model in a folder."""
    language_model, workspace = opened(study, "language_model"), studies.versions_of(study).workspace
    model, found = load_model(folder, dtype="float32", device="cpu"), {}
    for file in workspace.query_sets.values():
        rows, tokenized = read_tokenized(language_model, workspace, file)
        found |= dict(zip(rows["query_id"], log_probabilities(model, as_sequences(tokenized)), strict=True))
    return found


def table_of(study, method):
    sql = (
        "select group_name, query_id, score, standard_error, models, grouping, unit from group_scores where method = $1"
    )
    return studies.ask_sql(study, sql, [method])


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    study = laid_out(tmp_path_factory.mktemp("left_out"), groups=["land", "sea"], seeds=SEEDS)
    names = studies.compute(study)
    assert [name for name in names if name.startswith("left_out")] == [
        f"left_out_models[{name}.seed-{seed}]" for name in ("full", "group-land", "group-sea") for seed in (1, 2)
    ]
    return study


def test_scores_are_differences_of_models_that_are_trained_by_hand(computed, tmp_path):
    names = ["(none)", "land", "sea"]
    outcomes = {
        (left, seed): retrained(computed, tmp_path / f"{left}{seed}", set(names) - {left}, seed)
        for left in (None, "land") for seed in (1, 2)
    }  # fmt: skip
    rows = table_of(computed, "leave_one_out").filter(pl.col("group_name") == "land")
    assert rows.height == 3
    for row in rows.iter_rows(named=True):
        everything, without = (
            np.array([outcomes[left, seed][row["query_id"]] for seed in (1, 2)]) for left in (None, "land")
        )
        assert row["score"] == pytest.approx(everything.mean() - without.mean(), abs=1e-4)
        error = np.sqrt(everything.var(ddof=1) / 2 + without.var(ddof=1) / 2)
        assert row["standard_error"] == pytest.approx(error, abs=1e-4)
        assert (row["models"], row["grouping"], row["unit"]) == (4, "source", "nats")


def test_the_cookbook_names_the_groups_of_an_answer(computed):
    finished = influence("cookbook", "groups_behind_an_answer", "--bind", "query_id=lamp", "--study", computed)
    assert finished.code == 0, finished.err
    assert "leave_one_out" in finished.out
    assert "land" in finished.out


def test_another_group_trains_its_own_models_and_nothing_else(computed, tmp_path):
    study = studies.copied(computed, tmp_path / "copy")
    write(study, groups=["(none)", "land", "sea"], seeds=SEEDS)
    trained = [name for name in studies.compute(study) if name.startswith("left_out")]
    assert len(trained) == 2
    assert all(name.startswith("left_out_models[group-~") for name in trained)  # partition keys cannot hold brackets
    assert set(table_of(study, "leave_one_out")["group_name"]) == {"(none)", "land", "sea"}
    write(study, groups=["sea"], seeds=SEEDS)
    assert not [name for name in studies.compute(study) if name.startswith("left_out")]
    assert set(table_of(study, "leave_one_out")["group_name"]) == {"sea"}


def test_pairs_of_one_order_have_the_same_batches(computed, tmp_path):
    study = studies.copied(computed, tmp_path / "copy")
    write(study, groups=["land"], seeds=SEEDS, same_order=True)
    studies.compute(study)
    models = {
        name: opened(study, "left_out_models", Partition(name=name)) for name in ("full.seed-2", "group-land.seed-2")
    }
    assert len({model.manifest.summary["training_steps"] for model in models.values()}) == 1
    without = retrained(study, tmp_path / "m", {"(none)", "sea"}, 2, keeps_sequences=True)
    everything = retrained(study, tmp_path / "n", {"(none)", "sea", "land"}, 2, keeps_sequences=True)
    of_seeds = opened(study, "leave_one_out").table("changes_by_seed").collect()
    for row in of_seeds.filter(pl.col("seed") == 2).iter_rows(named=True):
        query_id = row["query_id"]
        assert row["change_nats"] == pytest.approx(everything[query_id] - without[query_id], abs=1e-4)
    rows = table_of(study, "tsloo")
    for row in rows.iter_rows(named=True):
        pair = of_seeds.filter(pl.col("query_id") == row["query_id"])["change_nats"].to_numpy()
        assert row["score"] == pytest.approx(pair.mean())
        assert row["standard_error"] == pytest.approx(pair.std(ddof=1) / np.sqrt(2))
    assert table_of(study, "leave_one_out").is_empty()


def test_the_strongest_groups_are_those_of_the_scores(computed, tmp_path):
    study = studies.copied(computed, tmp_path / "copy")
    write(study, groups=2, by="title", seeds=1)
    studies.compute(study)
    sums = studies.ask_sql(
        study,
        "select title, sum(abs(total)) as strength from ("
        "select coalesce(title, '(none)') as title, query_id, sum(influence_nats) as total"
        " from influence_by_document group by all) group by title order by strength desc limit 2",
    )
    models = [opened(study, "left_out_models", Partition(name=f"strongest-{rank:03}.seed-1")) for rank in (0, 1)]
    assert [model.manifest.summary["group"] for model in models] == sums["title"].to_list()
    rows = table_of(study, "leave_one_out")
    assert set(rows["group_name"]) == set(sums["title"])
    assert rows["standard_error"].to_list() == [None] * rows.height


def test_nothing_is_left_out_by_default(tmp_path):
    study = laid_out(tmp_path)
    with pytest.raises(InputError, match=r"method_options\.leave_one_out\.groups: it says what is left out, .*\[wiki,"):
        studies.compute(study)
    for groups in (0, [], [3], "wiki", True):
        with pytest.raises(InputError, match=r"method_options\.leave_one_out\.groups: it says what"):
            studies.compute(write(study, groups=groups))
    assert not list((study.parent / "store").glob("documents/*"))


@pytest.mark.parametrize(
    ("groups", "note"),
    [
        (["air", "land"], r"the corpus has no source 'air', so it has no row\. It has: \(none\), land, sea\."),
        (["air"], r"the corpus has no source 'air', so it has no row\."),
        (4, "asks for more groups than the corpus has by source, which are 3"),
    ],
)
def test_a_group_that_is_gone_has_no_row_and_holds_nothing_up(computed, tmp_path, groups, note):
    study = studies.copied(computed, tmp_path / "copy")
    write(study, groups=groups)
    assert "influence_catalogue" in studies.compute(study)
    manifests = studies.versions_of(study).workspace.store.manifests("left_out_models")
    noted = [m.summary["notes"] for m in manifests if "is_missing" in m.summary]
    assert noted
    assert all(re.search(note, sentence) for notes in noted for sentence in notes)
    rows = studies.ask_sql(study, "select distinct group_name from group_scores where method = 'leave_one_out'")
    assert set(rows["group_name"]) == ({"(none)", "land", "sea"} if groups == 4 else {"land"} & set(groups))


def test_a_column_that_no_document_has_is_refused(computed, tmp_path):
    study = studies.copied(computed, tmp_path / "copy")
    write(study, groups=["x"], by="language")
    with pytest.raises(InputError, match=r"leave_one_out\.by: no document has the column 'language'"):
        studies.compute(study)


def test_how_queries_become_tokens_is_part_of_what_models_said(computed, tmp_path):
    study = studies.copied(computed, tmp_path / "copy")
    versions = studies.versions_of(study)
    described = yaml.safe_load(study.read_text())
    described["queries"]["special_tokens"] = "parse"
    study.write_text(yaml.safe_dump(described))
    changed = studies.versions_of(study)
    for name in ("left_out_models", "retrained_models"):
        asset = versions.workspace.graph[name]
        partition = Partition(name=asset.listed(versions.workspace.study)[0])
        assert versions.key(asset, partition) != changed.key(changed.workspace.graph[name], partition)


def test_the_plan_counts_the_trainings(computed):
    before = StudySizes(studies.versions_of(write_more(computed)))
    [stage] = [stage for stage in estimates(before) if stage.asset.name == "left_out_models"]
    assert stage.outstanding == 2
    write(computed, groups=["land", "sea"], seeds=SEEDS)


def write_more(study):
    return write(study, groups=["land", "sea", "(none)"], seeds=SEEDS)


def test_forgetting_a_document_removes_the_models_that_were_trained_on_it(computed, tmp_path):
    study = studies.copied(computed, tmp_path / "copy")
    store = studies.versions_of(study).workspace.store
    before = {m.key for name in ("left_out_models", "leave_one_out") for m in store.manifests(name)}
    assert len(before) == 7
    document = studies.ask_sql(study, "select document_id from documents where title = 'Lamp'").item()
    finished = influence("forget", "--document", document, "--study", study)
    assert finished.code == 0, finished.err
    after = {m.key for name in ("left_out_models", "leave_one_out") for m in store.manifests(name)}
    assert len(after) == 7  # they are asked for by the study, and trained on what is left
    assert not before & after


def test_its_picture_is_drawn(computed):
    artifact = opened(computed, "left_out_models", Partition(name="group-sea.seed-1"))
    assert "without sea" in asset_graph()["left_out_models"].shown(artifact)["in_short"]


def test_models_that_are_trained_at_once_are_those_that_are_trained_in_turn(computed, tmp_path, monkeypatch):
    study = laid_out(tmp_path, groups=["land", "sea"], seeds=SEEDS)
    monkeypatch.setattr(retraining_at_once, "KINDS_OF_DEVICE", frozenset({"cpu"}))
    studies.compute(study)
    model = opened(study, "left_out_models", Partition(name="group-sea.seed-2"))
    assert model.manifest.summary["trained_at_once"] == 6
    in_turn, at_once = (
        table_of(each, "leave_one_out").sort("group_name", "query_id")["score"] for each in (computed, study)
    )
    assert at_once.to_list() == pytest.approx(in_turn.to_list(), abs=1e-3)


@pytest.mark.slow
def test_a_fine_tuned_model_is_trained_from_its_checkpoint_without_a_group(tmp_path):
    study = laid_out(tmp_path)
    studies.write_model(tmp_path / "base", seed=1)
    tuned = {"base": "base", "epochs": 2, "batch_sequences": 2, "learning_rate": 0.01, "seed": 5}
    options = {"by": "source", "permutations": 3, "seeds": 1}
    studies.write_study(
        tmp_path, model={"tuned": tuned}, methods=["ekfac", "leave_one_out", "data_shapley"],
        method_options={"leave_one_out": {"groups": ["land"], "seeds": 1}, "data_shapley": options},
    )  # fmt: skip
    studies.compute(study)
    full, without = (
        opened(study, "left_out_models", Partition(name=f"{name}.seed-1")).table("left_out_outcomes").collect()
        for name in ("full", "group-land")
    )
    [(_, change)] = {
        (query_id, after - before)
        for (query_id, after), (_, before) in zip(full.rows(), without.rows(), strict=True)
        if query_id == "lamp"
    }
    found = table_of(study, "leave_one_out").filter(query_id="lamp")
    assert found["score"].to_list() == pytest.approx([change])
    outcomes = opened(study, "data_shapley").table("subset_outcomes").collect()
    [nothing] = outcomes.filter(pl.col("groups").list.len() == 0)["log_probabilities_nats"].to_list()
    base = said(study, tmp_path / "base")
    assert nothing == pytest.approx([base[query_id] for query_id in full["query_id"]], abs=1e-4)
