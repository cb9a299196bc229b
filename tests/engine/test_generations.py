"""Generations of curvature: frozen, one beside the other while it fills, and current once it is complete."""

import shutil

import pytest
from scipy.stats import spearmanr

from influence_assets.assets import asset_graph
from influence_assets.engine.catalogue import rebuild_catalogue
from influence_assets.engine.partitions import Partition
from tests import studies
from tests.studies import COAST, EXTRA, FIRST, SHARDS, TRADES

GENERATIONS = "select generation_id, is_current from generations order by generation_id"
CURRENT = "select distinct generation_id from current_scores"
BEFORE_IT = ["documents", "language_model", "token_sequences"]
"""What a new generation leaves as it is."""


def assert_shown(study, generations, shards):
    """These generations are published, the last of them current, with scores of all these shards."""
    *earlier, current = generations
    expected = [(number, False) for number in earlier] + [(current, True)]
    assert studies.ask_sql(study, GENERATIONS).rows() == expected
    assert studies.ask_sql(study, CURRENT)["generation_id"].to_list() == [current]
    sql = "select distinct generation_id, shard_id from influence_scores join sequences using (sequence_id)"
    found = studies.ask_sql(study, sql).rows()
    assert {shard for generation, shard in found if generation == current} == set(shards)
    queries = len(studies.FIRST_ROWS + studies.SECOND_ROWS)
    assert len(studies.scores(study)) == queries * studies.ask_sql(study, "select count(*) from sequences").item()


@pytest.mark.soak
def test_a_generation_can_be_damped_anew_whatever_became_of_its_shards(study):
    """Λ is frozen with its generation: of the shards as they were when it was fitted, wherever they are now."""
    path = study.parent / "corpus" / TRADES
    (first,) = studies.ask_sql(study, "select mean_eigenvalue, damping from modules limit 1").rows()
    studies.write_parquet(path, studies.TRADES_ROWS[:1])
    studies.compute(study)
    studies.write_study(study.parent, curvature={"damping_scale": 0.2})
    assert {"curvature", f"query_gradients[{FIRST}]"} <= set(studies.compute(study))
    (second,) = studies.ask_sql(study, "select mean_eigenvalue, damping from modules limit 1").rows()
    assert second == pytest.approx((first[0], 2 * first[1]))
    path.unlink()
    studies.write_study(study.parent, curvature={"damping_scale": 0.3})
    assert "curvature" in studies.compute(study)
    (third,) = studies.ask_sql(study, "select mean_eigenvalue, damping from modules limit 1").rows()
    assert third == pytest.approx((first[0], 3 * first[1]))
    assert studies.ask_sql(study, "select generation_id from generations")["generation_id"].to_list() == [1]


@pytest.mark.soak
def test_a_generation_stands_without_what_it_was_merged_from(study):
    """Curvature is frozen: another machine that is handed it and the eigenbases needs no statistics of other shards."""
    scores = studies.scores(study)
    shutil.rmtree(study.parent / "store" / "corrected_eigenvalues")
    versions = studies.versions_of(study)
    assert versions.stands(asset_graph()["curvature"], Partition())
    assert versions.stands(asset_graph()["influence_scores"], Partition(COAST, FIRST))
    assert set(studies.compute(study)) == {"corrected_eigenvalues"}
    assert studies.scores(study) == scores


@pytest.mark.slow
def test_a_new_generation_is_fitted_on_what_is_there_now_and_views_show_it_alone(study):
    studies.write_extra(study)
    studies.compute(study)
    before = studies.scores(study)
    computed = studies.compute(study, new_generation=True)
    assert sorted(computed) == sorted(studies.everything([*SHARDS, EXTRA], but=BEFORE_IT))
    sequences = studies.ask_sql(study, "select count(*) from sequences").item()
    fitted = studies.ask_sql(study, "select generation_id, training_sequences from generations").rows()
    assert sorted(fitted) == [(1, 17), (2, sequences)]
    assert_shown(study, [1, 2], [*SHARDS, EXTRA])
    after = studies.scores(study)
    assert after.keys() == before.keys()
    assert after != before
    for view in ("current_scores", "top_influences", "score_lineage"):
        found = studies.ask_sql(study, f"select distinct generation_id from {view}")["generation_id"].to_list()
        assert found == [2], view
    studies.assert_no_stale_row(study)
    assert studies.compute(study) == []

    # How well the two agree, from the scores of before and after.
    told = studies.ask_sql(study, "select query_id, sequences, spearman from generation_agreement").rows()
    assert len(told) == 3
    for query, compared, correlation in told:
        pairs = [(before[pair], after[pair]) for pair in before if pair[0] == query]
        assert compared == len(pairs) == sequences
        assert correlation == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic)


def test_a_requested_generation_is_begun_by_the_next_run_if_one_dies_before_it_could(study):
    assert studies.compute(study, new_generation=True, until="documents") == []  # dies where it would begin it
    assert_shown(study, [1], SHARDS)
    assert studies.compute(study, until="covariances") == ["covariances"]  # and again, halfway
    assert_shown(study, [1], SHARDS)
    computed = studies.compute(study)
    assert computed[0] == "eigenbases"
    assert_shown(study, [1, 2], SHARDS)
    assert studies.compute(study) == []  # and once only


def test_a_damaged_generation_is_the_same_one_when_it_is_computed_again(study):
    """A catalogue that is built anew says of it what the old one says."""
    before = studies.ask_sql(study, "select * exclude (materialization_id) from generations")
    store = studies.versions_of(study).workspace.store
    for asset in ("eigenbases", "curvature"):
        store.mark_damaged(studies.artifact(study, asset).folder, [], "a sector is unreadable")
    assert {"covariances", "eigenbases", "curvature"} <= set(studies.compute(study))
    versions = studies.versions_of(study)
    versions.workspace.catalogue.unlink()
    rebuild_catalogue(versions)
    assert studies.ask_sql(study, "select * exclude (materialization_id) from generations").equals(before)


def test_the_first_generation_is_the_one_that_is_asked_for(tmp_path):
    """A request on an empty store is not for two."""
    study = studies.lay_out(tmp_path)
    assert studies.compute(study, new_generation=True, until="curvature").count("eigenbases") == 1
    studies.compute(study)
    assert_shown(study, [1], SHARDS)


@pytest.mark.slow
def test_while_a_generation_fills_the_one_before_is_shown_and_kept_up_to_date(study):
    scores = studies.scores(study)
    begun = studies.compute(study, new_generation=True, until="gradient_sketches")
    assert begun[:2] == ["covariances", "eigenbases"]
    assert "gradient_sketches[trades.parquet]" in begun
    assert_shown(study, [1], SHARDS)
    assert studies.scores(study) == scores

    # A file that comes now reaches readers in the generation that they see, and only then is the newer one completed.
    studies.write_extra(study)
    order = studies.compute(study)
    published = order.index("influence_catalogue")
    assert set(order[: published + 1]) == studies.of_shard(EXTRA)
    shards = [*SHARDS, EXTRA]
    frozen = {"covariances", "eigenbases", "corrected_eigenvalues", *BEFORE_IT}
    already = {f"{step}[{shard}]" for step in ("drift_statistics", "gradient_sketches") for shard in SHARDS}
    already |= {"curvature", f"query_gradients[{FIRST}]", f"query_gradients[{studies.SECOND}]"}
    # From the same pass as the sketches.
    pairs = [f"{queries}|{shard}" for queries in (FIRST, studies.SECOND) for shard in SHARDS]
    already |= {f"{scores}[{pair}]" for scores in studies.SCORES for pair in pairs}
    assert set(order[published + 1 :]) == studies.everything(shards, but=frozen) - already
    assert_shown(study, [1, 2], shards)
    agreement = studies.ask_sql(study, "select distinct sequences from generation_agreement")["sequences"].to_list()
    assert agreement == [studies.ask_sql(study, "select count(*) from sequences").item()]
    studies.assert_no_stale_row(study)
    assert studies.compute(study) == []


@pytest.mark.soak
def test_shards_come_change_and_go_beside_two_generations(study):
    """They are scored in the current one; of the one before what still stands is shown."""
    studies.compute(study, new_generation=True)
    studies.write_extra(study)
    assert sorted(studies.compute(study)) == sorted(studies.of_shard(EXTRA))
    assert_shown(study, [1, 2], [*SHARDS, EXTRA])
    assert shards_of(study, 1) == set(SHARDS)
    studies.write_parquet(study.parent / "corpus" / TRADES, studies.TRADES_ROWS[:2])
    assert sorted(studies.compute(study)) == sorted(studies.of_shard(TRADES))
    assert shards_of(study, 1) == {COAST}
    (study.parent / "corpus" / COAST).unlink()
    assert set(studies.compute(study)) == studies.ROLLED_UP
    assert_shown(study, [1, 2], [TRADES, EXTRA])
    assert shards_of(study, 1) == set()
    studies.assert_no_stale_row(study)


def shards_of(study, generation):
    sql = "select distinct shard_id from influence_scores join sequences using (sequence_id) where generation_id = $1"
    return set(studies.ask_sql(study, sql, [generation])["shard_id"])


@pytest.mark.soak
def test_a_lost_catalogue_is_no_reason_to_show_a_generation_before_it_is_complete(study):
    studies.compute(study, new_generation=True)
    studies.compute(study, new_generation=True, until="influence_scores")
    before = studies.catalogue_rows(study)
    assert_shown(study, [1, 2], SHARDS)
    studies.versions_of(study).workspace.catalogue.unlink()
    studies.compute(study, until="documents")
    rebuild_catalogue(studies.versions_of(study, "published"))
    assert studies.catalogue_rows(study) == before


@pytest.mark.soak
def test_a_third_generation_leaves_the_second_beside_it(study):
    for _ in range(2):
        studies.compute(study, new_generation=True)
    assert_shown(study, [2, 3], SHARDS)
    assert studies.compute(study) == []


@pytest.mark.soak
def test_a_generation_that_lost_what_it_was_fitted_on_before_it_was_finished_is_passed_over(study):
    """Its Λ needs the very shards: nobody has them any more."""
    studies.write_extra(study)
    studies.compute(study)
    studies.compute(study, new_generation=True, until="eigenbases")
    (study.parent / "corpus" / EXTRA).unlink()
    studies.compute(study)
    assert_shown(study, [1], SHARDS)
    studies.compute(study, new_generation=True)
    assert_shown(study, [1, 3], SHARDS)


@pytest.mark.slow
def test_the_number_by_which_scores_are_divided_is_the_generations(study):
    """Files that come and go change neither it nor the scores of others."""
    before = studies.scores(study)
    studies.write_extra(study)
    studies.compute(study)
    (study.parent / "corpus" / TRADES).unlink()
    studies.compute(study)
    assert studies.ask_sql(study, "select training_sequences from generations").rows() == [(17,)]
    after = studies.scores(study)
    coast = studies.sequences_of(study, COAST)
    kept = {pair: score for pair, score in after.items() if pair[1] in coast}
    assert kept == {pair: score for pair, score in before.items() if pair[1] in coast}


@pytest.mark.soak
def test_past_the_threshold_a_generation_is_made_by_itself_once(study):
    """Where the study says so; on what it is fitted on, nothing has drifted."""
    automatic = {"drift_threshold": 1e-3, "new_generation": "automatic"}
    studies.write_study(study.parent, curvature=automatic)
    assert set(studies.compute(study)) == {"curvature_drift", "influence_catalogue"}, "nothing has moved yet"
    studies.write_extra(study)
    computed = studies.compute(study)
    first = computed.index("influence_catalogue") + 1
    assert set(computed[:first]) == studies.of_shard(EXTRA), "readers do not wait for it"
    assert sorted(computed[first:]) == sorted(studies.everything([*SHARDS, EXTRA], but=BEFORE_IT))
    assert_shown(study, [1, 2], [*SHARDS, EXTRA])
    assert studies.artifact(study, "curvature_drift").manifest.summary["exceeds"] is False
    assert studies.compute(study) == []


@pytest.mark.soak
def test_a_threshold_that_nothing_can_meet_makes_no_generation_after_the_other(study):
    """Of a draw of the sequences the fit is never what all sequences say; a new one is made for news only."""
    studies.write_study(
        study.parent,
        curvature={"fit_sequences": 3, "drift_threshold": 1e-12, "new_generation": "automatic"},
    )
    studies.compute(study)
    shown = studies.ask_sql(study, GENERATIONS).rows()
    for _ in range(2):
        assert studies.compute(study) == []
    assert studies.ask_sql(study, GENERATIONS).rows() == shown


def test_by_default_a_generation_is_only_proposed(study):
    studies.write_study(study.parent, curvature={"drift_threshold": 1e-3})
    studies.write_extra(study)
    assert set(studies.compute(study)) == studies.of_shard(EXTRA)
    assert studies.artifact(study, "curvature_drift").manifest.summary["exceeds"] is True
    assert_shown(study, [1], [*SHARDS, EXTRA])


@pytest.mark.soak
def test_another_damping_belongs_to_the_generation_that_is_asked_for(study):
    studies.compute(study, new_generation=True)
    studies.write_study(study.parent, curvature={"damping_scale": 0.4})
    kept = {*BEFORE_IT, "covariances", "eigenbases", "corrected_eigenvalues", "drift_statistics"}
    frozen = [step.name for step in asset_graph() if step.name in kept]
    assert set(studies.compute(study)) == studies.everything(but=frozen)
    scales = studies.ask_sql(study, "select generation_id, damping_scale from generations").rows()
    assert (2, 0.4) in scales
    assert all(scale == 0.4 for _, scale in scales), "scores under another damping are not the other generation's"
    assert studies.compute(study) == []
