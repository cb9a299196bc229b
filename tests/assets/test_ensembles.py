"""Ensembles: members score as studies with their models would, cost what is new, and go with their documents."""

import contextlib
import hashlib
import shutil
from dataclasses import astuple
from io import StringIO

import pytest
from rich.console import Console

from influence_assets.api import strongest
from influence_assets.api.answer import OverMembers
from influence_assets.assets import open_workspace
from influence_assets.cli.passages import print_answer
from influence_assets.engine.bring_up import Failure, Result, bring_up_to_date
from influence_assets.errors import InputError
from influence_assets.storage.catalogue import run_checks
from influence_assets.study import SEEDS_APART, Study
from influence_assets.upkeep.forget import withdraw
from influence_assets.upkeep.garbage import collect
from influence_assets.upkeep.verify import verify
from tests import studies
from tests.closeness import assert_same_scores
from tests.studies import COAST, EXTRA, QUERY_SETS, SHARDS, TRADES

TRAINED = {"layers": 1, "width": 8, "heads": 2, "vocabulary": 300, "epochs": 2, "batch_sequences": 4}
FOG = studies.COAST_ROWS[2]["text"]
OF_MODEL = ("language_model", "covariances", "eigenbases", "corrected_eigenvalues", "curvature")
GENERATIONS = "select generation_id, member, training_sequences from generations order by member, generation_id"
SCORES = """
    select query_id, sequence_id, influence_nats
    from influence_scores inner join generations using (generation_id) inner join queries using (query_key)
    where member = $1 and (member > 0 or is_current)
"""
PARTS = """
    select query_id, sequence_id, document_key, part_scores.influence_nats
    from part_scores inner join generations using (generation_id) inner join queries using (query_key)
    where member = $1 and (member > 0 or is_current)
"""


class EnoughError(BaseException):
    """In the place of the signal that would end the process."""


class Watcher:
    """Follows a run, and ends it before an asset of a member begins."""

    def __init__(self, until=None):
        self.until, self.member = until, 0

    def turns_to(self, member):
        self.member = member

    def begins(self, asset, _partition, _outstanding):
        if (self.member, asset.name) == self.until:
            raise EnoughError

    def progress(self, *_):
        pass


def lay_out(folder, **trained):
    model = {"path": None, "train": TRAINED | trained, "dtype": "float64"}
    return studies.lay_out(folder, model=model, sequences={"length": 24})


def with_members(study, members):
    model = {"path": None, "train": TRAINED | {"members": members}, "dtype": "float64"}
    studies.write_study(study.parent, model=model, sequences={"length": 24})


def run(study, until=None, *, new_generation=False):
    """What was computed by member, as `asset[partition]`; what fails is raised."""
    result = Result()
    versions = studies.versions_of(study, "published")
    events = bring_up_to_date(versions, Watcher(until), result, run_id="test", new_generation=new_generation)
    with contextlib.closing(events), contextlib.suppress(EnoughError):
        for event in events:
            if isinstance(event, Failure):
                raise event.error
    computed = {0: result.computed, **result.of_members}
    return {member: {studies.label(*place) for place in places} for member, places in computed.items() if places}


def of_member(shards=SHARDS, *, model=OF_MODEL):
    """All that a member needs of its own."""
    pairs = {f"influence_scores[{query_set}|{shard}]" for query_set in QUERY_SETS for shard in shards}
    return pairs | set(model) | ({f"query_gradients[{query_set}]" for query_set in QUERY_SETS} if model else set())


def rows(study, sql, *parameters):
    return set(studies.ask_sql(study, sql, list(parameters)).rows())


def by_key(study, sql, member=0):
    """Scores of a member, by all that names them."""
    return {tuple(key): score for *key, score in rows(study, sql, member)}


def workspace(study):
    return open_workspace(Study.load(study))


def ensemble(study):
    """How many members the ensemble's scores have, by sequence."""
    return dict(studies.ask_sql(study, "select distinct sequence_id, members from ensemble_scores").rows())


def sequences(study):
    return set(studies.ask_sql(study, "select sequence_id from sequences")["sequence_id"])


def assert_whole(study):
    """Nothing is outstanding, all checks hold, and nothing is damaged or stale."""
    assert run(study) == {}
    found = workspace(study)
    assert {name for name, violations in run_checks(found.catalogue).items() if violations.height} == set()
    assert verify(found, lambda *_: None) == []
    studies.assert_no_stale_row(study)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A study with three members, two of them further ones. Not to be changed: copy it."""
    study = lay_out(tmp_path_factory.mktemp("ensemble"), members=3)
    computed = run(study)
    assert computed == {0: studies.everything(), 1: of_member(), 2: of_member()}
    return study


@pytest.fixture
def study(trained, tmp_path):
    return studies.copied(trained, tmp_path)


@pytest.mark.parametrize("member", [1, 2])
def test_a_members_scores_are_those_of_a_study_with_its_seed(trained, tmp_path, member):
    alone = lay_out(tmp_path, seed=member * SEEDS_APART)
    run(alone)
    for sql in (SCORES, PARTS):
        assert_same_scores(by_key(trained, sql, member), by_key(alone, sql))
        assert by_key(trained, sql)
        assert set(by_key(trained, sql).values()).isdisjoint(by_key(alone, sql).values())


@pytest.mark.slow
def test_the_first_member_is_as_it_would_be_alone(trained, tmp_path):
    alone = lay_out(tmp_path)
    run(alone)
    assert studies.scores(trained) == studies.scores(alone)
    states = "select asset, partition, data_version from partition_states where asset <> 'influence_catalogue'"
    assert rows(trained, states) == rows(alone, states)
    assert rows(alone, "select * from ensemble_scores") == set()


def test_the_mean_is_that_of_what_is_stored(trained):
    by_member = [by_key(trained, SCORES, member) for member in range(3)]
    found = studies.ask_sql(
        trained, "select query_id, sequence_id, members, influence_nats from ensemble_scores"
    ).rows()
    assert len(found) == len(by_member[0]) == 3 * len(sequences(trained))
    for query, sequence, members, mean in found:
        scores = [scores[query, sequence] for scores in by_member]
        assert (members, mean) == (3, pytest.approx(sum(scores) / 3, rel=1e-12))


def test_an_answer_has_the_interval_over_members(trained):
    answer = strongest(studies.versions_of(trained, "published"), "lamp", 3)
    sql = (
        "select sequence_id, members, influence_nats, low_nats, high_nats from ensemble_scores where query_id = 'lamp'"
    )
    figures = {sequence: OverMembers(*rest) for sequence, *rest in rows(trained, sql)}
    for passage in answer.passages:  # DuckDB adds up in any order
        assert astuple(passage.over_members) == pytest.approx(astuple(figures[passage.sequence_id]), rel=1e-12)
    console = Console(file=StringIO(), width=200)
    print_answer(answer, "scored", console, full=False)
    over = answer.passages[0].over_members
    assert (
        f"3 models {over.influence_nats:+.3g} ({over.low_nats:+.3g} to {over.high_nats:+.3g})"
        in console.file.getvalue()
    )


def test_what_stands_is_whole(study):
    assert_whole(study)
    removed = collect(workspace(study), keep=0).removed
    assert [key.asset for key in removed] == ["influence_catalogue"], "the first load, which had no members yet"
    assert_whole(study)


def test_a_new_shard_costs_each_member_its_pairs(study):
    before = rows(study, SCORES, 1)
    studies.write_extra(study)
    pairs = of_member([EXTRA], model=())
    assert run(study) == {0: studies.of_shard(EXTRA), 1: pairs, 2: pairs}
    assert before < rows(study, SCORES, 1)
    assert ensemble(study) == dict.fromkeys(sequences(study), 3)
    assert_whole(study)


@pytest.mark.slow
def test_a_changed_shard_costs_each_member_its_pairs(study):
    kept = studies.sequences_of(study, COAST)
    before = {row for row in rows(study, SCORES, 2) if row[1] in kept}
    studies.write_parquet(study.parent / "corpus" / TRADES, studies.TRADES_ROWS[:2])
    pairs = of_member([TRADES], model=())
    assert run(study) == {0: studies.of_shard(TRADES), 1: pairs, 2: pairs}
    assert {row for row in rows(study, SCORES, 2) if row[1] in kept} == before
    assert ensemble(study) == dict.fromkeys(sequences(study), 3)
    assert_whole(study)


def test_a_shard_is_in_the_ensemble_once_all_members_have_scored_it(study):
    studies.write_extra(study)
    run(study, until=(2, "influence_scores"))  # killed after the first further member
    assert sequences(study) > ensemble(study).keys(), "the first load comes before the members"
    pairs = of_member([EXTRA], model=())
    assert run(study) == {0: {"influence_catalogue"}, 2: pairs}
    assert ensemble(study) == dict.fromkeys(sequences(study), 3)
    assert_whole(study)


@pytest.mark.slow
@pytest.mark.parametrize("until", ["language_model", "eigenbases", "curvature", "influence_scores"])
def test_a_run_that_is_killed_goes_on(tmp_path, trained, until):
    study = lay_out(tmp_path, members=3)
    first = run(study, until=(1, until))
    rest = run(study)
    assert first.get(1, set()) | rest[1] == of_member()
    assert first.get(1, set()).isdisjoint(rest[1])
    assert rest[2] == of_member()
    for member in range(3):
        assert rows(study, SCORES, member) == rows(trained, SCORES, member)
    assert_whole(study)


def test_more_members_cost_themselves_and_fewer_cost_nothing(study):
    before = {member: rows(study, SCORES, member) for member in range(3)}
    with_members(study, 4)
    assert run(study) == {0: {"influence_catalogue"}, 3: of_member()}
    assert set(ensemble(study).values()) == {4}
    with_members(study, 2)
    assert run(study) == {0: {"influence_catalogue"}}
    assert set(ensemble(study).values()) == {2}
    assert [rows(study, SCORES, member) for member in (0, 1, 2)] == [before[0], before[1], set()]
    # What the other two had is superseded.
    removed = {key.asset for key in collect(workspace(study), keep=0).removed}
    assert removed == {*OF_MODEL, "query_gradients", "influence_scores", "influence_catalogue"}
    assert len(list(workspace(study).store.manifests("language_model"))) == 2
    assert_whole(study)
    with_members(study, 1)
    assert run(study) == {0: {"influence_catalogue"}}
    assert ensemble(study) == {}
    collect(workspace(study), keep=0)
    assert len(list(workspace(study).store.manifests("influence_scores"))) == len(SHARDS) * len(QUERY_SETS)
    assert_whole(study)


@pytest.mark.slow
def test_a_later_member_is_trained_and_fitted_on_what_the_first_was(tmp_path, trained):
    study = lay_out(tmp_path)
    run(study)
    studies.write_extra(study)
    run(study)
    with_members(study, 3)
    assert run(study)[2] == of_member([*SHARDS, EXTRA])
    assert rows(study, GENERATIONS) == rows(trained, GENERATIONS)
    of_first_shards = {row for row in rows(study, SCORES, 2) if row[1] in sequences(trained)}
    assert of_first_shards == rows(trained, SCORES, 2)
    assert_whole(study)


@pytest.mark.slow
def test_members_follow_a_new_generation(study):
    studies.write_extra(study)
    run(study)
    computed = run(study, new_generation=True)
    assert computed[1] == computed[2] == of_member([*SHARDS, EXTRA]) - {"language_model"}
    every = len(sequences(study))
    assert rows(study, GENERATIONS) == {(1, 0, 10), (4, 0, every), (5, 1, every), (6, 2, every)}
    assert set(ensemble(study).values()) == {3}
    assert len(rows(study, "select distinct generation_id, other_generation_id from generation_agreement")) == 1
    assert_whole(study)


def test_nothing_of_a_withdrawn_document_stays(study):
    with_it = {studies.artifact(study, asset, shard=COAST).key for asset in ("documents", "token_sequences")}
    gone = hashlib.sha256(FOG.encode()).hexdigest()[:32]
    of_shard = studies.sequences_of(study, COAST)
    withdraw(workspace(study), [gone], "asked for")
    pairs = of_member([COAST], model=())
    assert run(study) == {0: studies.of_shard(COAST), 1: pairs, 2: pairs}
    sql = "select sequence_id from sequence_documents where document_id = $1"
    assert rows(study, sql, gone) == set()
    collect(workspace(study), keep=9)
    store, graph = workspace(study).store, workspace(study).graph
    assert not any(map(store.has_content, with_it))
    left = [manifest for manifest in store.manifests() if graph[manifest.asset].holds_text]
    assert len(left) > 3 * len(pairs)
    assert [manifest.key for manifest in left if with_it & {manifest.key, *manifest.inputs}] == []
    assert {row[1] for member in range(3) for row in rows(study, SCORES, member)} == sequences(study)
    assert of_shard - sequences(study)
    assert_whole(study)


@pytest.mark.slow
def test_damage_of_a_member_is_mended(study):
    member = studies.versions_of(study).members[0]
    scores = member.workspace.graph["influence_scores"]
    key = member.key(scores, member.partitions(scores)[0])
    shutil.rmtree(member.workspace.store.place(key))
    assert run(study)[1] == {f"influence_scores[{key.partition}]"}
    assert_whole(study)


@pytest.fixture
def brought(standing, tmp_path):
    """A study of three models with one tokenizer, the first of which is computed."""
    study = studies.copied(standing, tmp_path)
    for seed in (1, 2):
        studies.write_model(study.parent / f"model_{seed}", seed=seed)
    studies.write_study(study.parent, model={"members": ["model_1", "model_2"]})
    return study


@pytest.mark.slow
def test_members_that_are_brought(brought, tmp_path_factory):
    assert run(brought) == {0: {"influence_catalogue"}, 1: of_member(), 2: of_member()}
    alone = studies.lay_out(tmp_path_factory.mktemp("alone"))
    studies.write_study(alone.parent, model={"path": str(brought.parent / "model_2")})
    run(alone)
    assert_same_scores(by_key(brought, SCORES, 2), by_key(alone, SCORES))
    second = rows(brought, SCORES, 2)
    # Its weights change, and so do its scores alone.
    shutil.rmtree(brought.parent / "model_1")
    studies.write_model(brought.parent / "model_1", seed=3)
    assert run(brought) == {0: {"influence_catalogue"}, 1: of_member()}
    # A member less: the one that stays has another number and the same artifacts.
    studies.write_study(brought.parent, model={"members": ["model_2"]})
    assert run(brought) == {0: {"influence_catalogue"}}
    assert rows(brought, SCORES, 1) == second
    assert_whole(brought)


def test_a_member_with_another_tokenizer_is_refused(brought):
    made = studies.tokenizer(280)
    studies.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=studies.END).save_pretrained(
        brought.parent / "model_1"
    )
    with pytest.raises(InputError, match="model_1: has another tokenizer than the study's own model"):
        run(brought)
    assert studies.scores(brought)


@pytest.mark.slow
def test_a_copy_of_the_studys_model_is_refused(brought):
    shutil.rmtree(brought.parent / "model_1")
    studies.write_model(brought.parent / "model_1", seed=0)
    with pytest.raises(InputError, match="model_1: has the weights of the study's own model"):
        run(brought)
