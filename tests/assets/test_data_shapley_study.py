"""Data Shapley of three sources with real trainings: its sums, what a killed run leaves, and what is used again."""

from itertools import permutations

import numpy as np
import pytest

from influence_assets.assets import data_shapley as module
from influence_assets.assets.study_sizes import StudySizes
from influence_assets.forecast.estimates import estimates
from influence_assets.models.training import new_model, save_model
from influence_assets.study import Study
from tests import studies
from tests.assets.test_leave_one_out import laid_out, opened, retrained, said, table_of, write
from tests.commanding import influence, influence_process, killed

NAMES = ("(none)", "land", "sea")
OPTIONS = {"seeds": 2, "permutations": 20, "tolerance": 0.0}


@pytest.fixture
def trainings(monkeypatch):
    """The sets that are trained on from now on, and a number after which training is killed."""
    counted, inner = [], module.trained_outcomes

    class Trainings:
        most = 10**9
        calls = counted

    def training(work, part, seed):
        if len(counted) == Trainings.most:
            raise RuntimeError("killed")
        counted.append((len(part.tokens), seed))
        return inner(work, part, seed)

    monkeypatch.setattr(module, "trained_outcomes", training)
    return Trainings


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    study = laid_out(tmp_path_factory.mktemp("shapley"), "data_shapley", **OPTIONS)
    studies.compute(study)
    return study


def untrained(study, folder, seed):
    recipe, tokenizer = Study.load(study).model.train, studies.tokenizer_of(opened(study, "language_model"))
    model = new_model(recipe.model_copy(update={"seed": recipe.seed + seed}), tokenizer, context=32)
    save_model(model, tokenizer, folder)
    return said(study, folder)


def test_values_are_those_of_all_orders_by_hand(computed, tmp_path):
    """Every subset trained here, the marginal changes averaged over the very orders that were drawn."""
    from influence_assets.analysis.data_shapley import order_of_arrival

    outcomes = {}
    for size in range(4):
        for chosen in map(frozenset, permutations(range(3), size)):
            for seed in (1, 2):
                folder = tmp_path / f"{sorted(chosen)}{seed}"
                if (chosen, seed) not in outcomes:
                    outcomes[chosen, seed] = (
                        retrained(computed, folder, {NAMES[each] for each in chosen}, seed)
                        if chosen else untrained(computed, folder, seed)
                    )  # fmt: skip
    orders = [[int(each) for each in order_of_arrival(3, seed=0, number=number)] for number in range(20)]
    rows = table_of(computed, "data_shapley")
    assert rows.height == 3 * 3
    for row in rows.iter_rows(named=True):
        unit, added = NAMES.index(row["group_name"]), []
        for order in orders:
            before = frozenset(order[: order.index(unit)])
            added += [
                outcomes[before | {unit}, seed][row["query_id"]] - outcomes[before, seed][row["query_id"]]
                for seed in (1, 2)
            ]
        assert row["score"] == pytest.approx(np.mean(added), abs=1e-4)
        assert row["standard_error"] > 0
        assert (row["models"], row["grouping"], row["unit"]) == (14, "source", "nats")


def test_values_sum_to_what_training_adds(computed):
    summary = opened(computed, "data_shapley").manifest.summary
    total = table_of(computed, "data_shapley")["score"].sum()
    assert total == pytest.approx(summary["everything_nats"], rel=1e-9)
    assert summary["cut_off_nats"] == pytest.approx(0, abs=1e-9)
    assert "had not settled after 20 orders" in summary["notes"][0]


def test_a_killed_run_loses_no_model_and_ends_with_the_same_values(computed, tmp_path, trainings):
    study = laid_out(tmp_path, "data_shapley", **OPTIONS)
    trainings.most = 5
    with pytest.raises(RuntimeError, match="killed"):
        studies.compute(study)
    assert len(trainings.calls) == 5
    assert len(list(studies.versions_of(study).workspace.store.manifests("data_shapley"))) == 1  # the last checkpoint
    trainings.most = 10**9
    studies.compute(study)
    assert len(trainings.calls) == 14
    assert opened(study, "data_shapley").manifest.summary["models_from_before"] == 5 + 2  # and two untrained ones
    assert (
        table_of(study, "data_shapley")
        .sort("query_id", "group_name")
        .equals(table_of(computed, "data_shapley").sort("query_id", "group_name"))
    )
    store = studies.versions_of(study).workspace.store
    assert len(list(store.manifests("data_shapley"))) == 1  # no checkpoint is left


def test_more_orders_and_other_tolerances_use_the_models_that_are_there(computed, tmp_path, trainings):
    study = studies.copied(computed, tmp_path / "copy")
    write(study, "data_shapley", **OPTIONS | {"permutations": 130, "largest_change": 0.5})
    assert "data_shapley" in studies.compute(study)
    assert trainings.calls == []
    summary = opened(study, "data_shapley").manifest.summary
    assert 100 <= summary["permutations"] <= 130
    assert "notes" not in summary
    write(study, "data_shapley", **OPTIONS | {"seeds": 3})
    studies.compute(study)
    assert {seed for _, seed in trainings.calls} == {3}
    assert len(trainings.calls) == 7
    write(study, "data_shapley", **OPTIONS | {"seeds": 1})
    studies.compute(study)
    assert len(trainings.calls) == 7
    assert set(table_of(study, "data_shapley")["models"]) == {7}  # those of other seeds say nothing


def test_other_queries_and_other_groups_use_none(computed, tmp_path, trainings):
    study = studies.copied(computed, tmp_path / "copy")
    write(study, "data_shapley", by="shard", **OPTIONS)
    studies.compute(study)
    assert len(trainings.calls) == 2 * 3
    assert set(table_of(study, "data_shapley")["group_name"]) == set(studies.SHARDS)
    write(study, "data_shapley", **OPTIONS)
    studies.write_jsonl(study.parent / "queries" / studies.SECOND, [{"prompt": "Ships follow", "completion": " gulls"}])
    trainings.calls.clear()
    studies.compute(study)
    assert len(trainings.calls) == 14


def test_one_group_has_all_that_training_adds(computed, tmp_path):
    study = studies.copied(computed, tmp_path / "copy")
    studies.write_jsonl(study.parent / "corpus" / studies.COAST, [{"text": "Fog.", "source": "sea"}])
    (study.parent / "corpus" / studies.TRADES).unlink()
    studies.compute(study)
    rows = studies.ask_sql(study, "select group_name, sum(score) as score from group_scores group by all")
    assert rows["group_name"].to_list() == ["sea"]
    assert rows["score"].item() == pytest.approx(opened(study, "data_shapley").manifest.summary["everything_nats"])


def test_forgetting_a_document_removes_what_was_trained_on_it(computed, tmp_path):
    study = studies.copied(computed, tmp_path / "copy")
    before = opened(study, "data_shapley").manifest.key
    document = studies.ask_sql(study, "select document_id from documents where title = 'Lamp'").item()
    assert influence("forget", "--document", document, "--study", study).code == 0
    assert before not in [m.key for m in studies.versions_of(study).workspace.store.manifests("data_shapley")]
    assert opened(study, "data_shapley").manifest.summary["models_from_before"] == 0


def test_the_plan_counts_the_trainings(computed, tmp_path):
    """Of three groups every subset but the empty one, with two seeds, each on half of the corpus on average."""
    study = studies.copied(computed, tmp_path / "copy")
    write(study, "data_shapley", **OPTIONS | {"permutations": 21})
    sizes = StudySizes(studies.versions_of(study))
    [stage] = [stage for stage in estimates(sizes) if stage.asset.name == "data_shapley"]
    assert stage.outstanding == 1
    one = sizes.study.model.train.epochs * sizes.all_sequences() * sizes.shape.training_step()
    assert stage.operations == pytest.approx(7 * 2 * one / 2)


def test_subsets_are_counted_while_they_are_few():
    assert module.most_trainings(3, 1000) == 7
    assert module.most_trainings(10, 5) == 5 * 9 + 1
    assert module.most_trainings(10**6, 2) == 2 * (10**6 - 1) + 1


@pytest.mark.slow
def test_a_process_that_is_killed_loses_no_model_that_was_trained(computed, tmp_path, trainings):
    """By the signal itself, just before the training of the third model is saved."""
    study = laid_out(tmp_path, "data_shapley", **OPTIONS)
    studies.compute(study, until="token_sequences")
    saved = ("os.rename", "*/.training/*/model.partial", 3)
    killed(influence_process("run", folder=study.parent, killed_at=saved))
    store = studies.versions_of(study).workspace.store
    [left] = store.manifests("data_shapley")
    assert left.rows["subset_outcomes"] == 2 + 2  # without any group and with all, two seeds each
    studies.compute(study)
    assert len(trainings.calls) == 14 - 2
    assert (
        table_of(study, "data_shapley")
        .sort("query_id", "group_name")
        .equals(table_of(computed, "data_shapley").sort("query_id", "group_name"))
    )
