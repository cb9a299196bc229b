"""Checks that fail: told by every run until they hold, and mended where that is possible."""

import duckdb
import polars as pl
import pytest

from influence_assets.assets import open_workspace
from influence_assets.storage.catalogue import is_as_published, query, run_checks
from influence_assets.storage.catalogue.publication import note_publication
from influence_assets.study import Study
from tests import studies
from tests.commanding import influence
from tests.studies import COAST, FIRST
from tests.tiers import slow_but

DOUBLE_EDGES = "insert into materialization_inputs from materialization_inputs"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    study = studies.lay_out(tmp_path_factory.mktemp("published"))
    assert influence("run", "--study", study).code == 0
    return study


@pytest.fixture
def study(published, tmp_path):
    return studies.copied(published, tmp_path)


def catalogue(study):
    return open_workspace(Study.load(study)).catalogue


def by_another_program(study, sql):
    with duckdb.connect(str(catalogue(study))) as connection:
        connection.execute(sql).complete()


CHANGES = {
    "rows twice": DOUBLE_EDGES,
    "rows gone, which no check of SQL finds": "delete from token_influence",
    "another value, which no check of SQL finds": "update documents set title = 'Other'",
    "all of a score": "delete from influence_scores",
}


@pytest.mark.slow
@pytest.mark.parametrize("change", slow_but(of=CHANGES, slow=("another value, which no check of SQL finds",)))
def test_what_another_program_changed_is_told_and_mended(study, change):
    good = studies.catalogue_rows(study)
    by_another_program(study, CHANGES[change])
    assert studies.catalogue_rows(study) != good
    told = influence("status", "--study", study)
    assert "The catalogue is not as it was published: `influence run` builds it again." in told.out
    assert "Everything is up to date" not in told.out
    verified = influence("verify", "--study", study)
    assert verified.code == 1
    assert "Damaged the catalogue's table" in verified.out
    assert "`influence run` builds it again" in verified.out
    ended = influence("run", "--study", study)
    assert ended.code == 0, ended.out
    assert "The catalogue was not as it was published, and was built again." in ended.out
    assert studies.catalogue_rows(study) == good
    assert influence("verify", "--study", study).code == 0
    assert influence("run", "--study", study).out.startswith("Nothing to do")
    assert "Everything is up to date" in influence("status", "--study", study).out


@pytest.mark.slow
def test_changes_that_the_record_does_not_show_are_found_by_verify_and_then_mended(study):
    good, path = studies.catalogue_rows(study), catalogue(study)
    by_another_program(study, "update documents set title = 'Other'")
    note_publication(path, is_built_anew=True)
    assert influence("run", "--study", study).out.startswith("Nothing to do")
    verified = influence("verify", "--study", study)
    assert (verified.code, "documents: has other values in rows of" in verified.out) == (1, True)
    assert not is_as_published(path)
    assert influence("run", "--study", study).code == 0
    assert studies.catalogue_rows(study) == good


@pytest.mark.slow
def test_a_check_of_an_artifact_stays_outstanding_until_it_holds(study):
    """Also if nobody looked for long: a store whose list of failed checks is lost has all of them repeated."""
    good = studies.artifact(study, "influence_scores", shard=COAST, query_set=FIRST).table("influence_scores").collect()
    place = {"shard": COAST, "query_set": FIRST}
    studies.rewrite(study, "influence_scores", tables={"influence_scores": good.head(3)}, **place)
    listed = open_workspace(Study.load(study)).store.root / ".cache" / "failed_checks.json"
    listed.unlink()
    label = f"influence_scores[{FIRST}|{COAST}]: every_sequence_is_scored"
    for _ in range(2):
        ended = influence("run", "--study", study)
        assert (ended.code, ended.err) == (1, "")
        assert f"Check failed {label}" in ended.out
        assert "Nothing to do" not in ended.out
        assert "remove" in ended.out
        told = influence("status", "--study", study)
        assert f"Check failed {label}" in told.out
        assert "Everything is up to date" not in told.out
    studies.rewrite(study, "influence_scores", tables={"influence_scores": good}, **place)
    ended = influence("run", "--study", study)
    assert (ended.code, ended.out.startswith("Nothing to do")) == (0, True), ended.out
    assert "Everything is up to date" in influence("status", "--study", study).out


@pytest.mark.slow
def test_a_check_of_sql_that_artifacts_violate_stays_outstanding_although_the_file_is_built_again(study):
    """And other work goes on, and is published."""
    scores = studies.artifact(study, "influence_scores", shard=COAST, query_set=FIRST)
    wrong = scores.table("influence_scores").collect().with_columns(influence_nats=pl.lit(float("nan")))
    place = {"shard": COAST, "query_set": FIRST}
    studies.rewrite(study, "influence_scores", tables={"influence_scores": wrong}, **place)
    assert influence("rebuild-catalogue", "--study", study).code == 0
    assert not run_checks(catalogue(study))["scores_are_finite"].is_empty()
    verified = influence("verify", "--study", study)
    assert (verified.code, "scores_are_finite does not hold" in verified.out) == (1, True)
    (open_workspace(Study.load(study)).store.root / ".cache" / "failed_checks.json").unlink()
    for extra in (False, True, False):
        if extra:
            studies.write_extra(study)
        ended = influence("run", "--study", study)
        assert ended.code == 1
        assert "Check failed influence_catalogue: scores_are_finite" in ended.out
    assert query(catalogue(study), "select count(distinct shard_id) from documents").item() == 3
