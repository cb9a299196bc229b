"""Every SQL file says what it is, everything that people see has a comment, and grains are what comments say."""

import re
import shutil

import duckdb
import pytest
from sample_rows import ENSEMBLE

from influence_assets.errors import InputError
from influence_assets.storage.catalogue import statements as module
from influence_assets.storage.catalogue.statements import schema_version, sql_folder, statements, use_folders

TABLES = sorted(statements("schema"))
MACROS = {
    "strongest": "strongest(query, n, unseen)",
    "strongest_of_each": "strongest_of_each(n, unseen)",
    "current_scores_of": "current_scores_of(name)",
    "strongest_with_noise": "strongest_with_noise(query, n, unseen)",
    "calibrated": "calibrated(score, sigma, c)",
    "critical_t": "critical_t(degrees)",
    "noise_sigma": "noise_sigma(score)",
    "noise_threshold": "noise_threshold(median, sigma, scores)",
    "dependents_of_document": "dependents_of_document(document)",
    "ancestry_of": "ancestry_of(materialization)",
}
VIEWS = sorted(statements("views").keys() - MACROS.keys())


def test_the_tables_are_those_of_the_design():
    assert set(TABLES) == {
        *(
            "shards",
            "skipped_rows",
            "documents",
            "sequences",
            "sequence_documents",
            "queries",
            "modules",
            "generations",
        ),
        *(
            "influence_scores",
            "part_scores",
            "method_scores",
            "method_part_scores",
            "layer_influence",
            "token_influence",
        ),
        *("self_influence", "self_influence_parts", "solver_residuals"),
        *("materializations", "materialization_inputs", "catalogue"),
        *("trained_documents", "tombstones", "partition_states", "layer_drift"),
        *("outcomes", "removal_outcomes", "evaluations", "evaluations_by_query", "fitted_calibration"),
        "group_scores",
    }
    assert statements("load").keys() == set(TABLES)


@pytest.mark.parametrize("kind", ["schema", "views", "load", "changes", "checks", "cookbook"])
def test_every_file_says_what_it_is_and_its_grain(kind):
    for statement in statements(kind).values():
        assert statement.purpose, statement.name
        assert statement.grain, statement.name
        assert re.fullmatch(r"[a-z_]+", statement.name)


@pytest.mark.parametrize("kind", ["changes", "cookbook"])
def test_every_parameter_is_described_and_used(kind):
    for statement in statements(kind).values():
        code = re.sub(r"^-- .*\n", "", statement.sql, flags=re.M)
        assert set(re.findall(r"\$(\w+)", code)) == set(statement.parameters), statement.name


@pytest.mark.parametrize("name", [*TABLES, *VIEWS])
def test_tables_views_and_all_their_columns_have_comments(catalogue, name):
    [[comment]] = catalogue.execute(
        "select comment from duckdb_tables() where table_name = $name"
        " union all select comment from duckdb_views() where view_name = $name",
        {"name": name},
    ).fetchall()
    assert comment.startswith(_first_words(name))
    assert "grain: (" in comment
    columns = catalogue.execute("select column_name, comment from duckdb_columns() where table_name = $n", {"n": name})
    assert [column for column, said in columns.fetchall() if not said] == []


@pytest.mark.parametrize(("name", "signature"), MACROS.items())
def test_macros_have_comments(catalogue, name, signature):
    sql = "select comment, parameters from duckdb_functions() where function_name = $name"
    [[comment, parameters]] = catalogue.execute(sql, {"name": name}).fetchall()
    assert comment == f"{statements('views')[name].purpose} grain: ({statements('views')[name].grain})"
    assert comment.startswith(f"{signature}: ")
    assert signature == f"{name}({', '.join(parameters)})"


def test_the_sign_and_the_position_are_said(catalogue):
    said = dict(
        catalogue.execute(
            "select table_name || '.' || column_name, comment from duckdb_columns() where not internal"
        ).fetchall()
    )
    assert said["influence_scores.influence_nats"] == (
        "First-order change of the completion's log-probability, in nats, if this sequence were added once more to "
        "the N training sequences of its generation; positive helps."
    )
    assert "next token" in said["token_influence.token_position"]


@pytest.mark.parametrize("name", [*TABLES, *VIEWS])
def test_the_grain_is_unique_in_the_sample_and_of_real_columns(catalogue, name):
    kind = "schema" if name in TABLES else "views"
    grain = statements(kind)[name].grain
    [[comment]] = catalogue.execute(
        "select comment from duckdb_tables() where table_name = $n union all "
        "select comment from duckdb_views() where view_name = $n",
        {"n": name},
    ).fetchall()
    assert f"grain: ({grain})" in comment
    if name.startswith("ensemble_"):
        catalogue.execute(ENSEMBLE).complete()
    rows, distinct = catalogue.execute(f"select count(*), count(distinct ({grain})) from {name}").fetchall()[0]
    assert rows == distinct > 0


@pytest.mark.parametrize("table", TABLES)
def test_each_tables_grain_has_a_check_of_the_same_columns(table):
    check = statements("checks")[f"grain_of_{table}"]
    assert check.grain == statements("schema")[table].grain
    assert f"from {table}\ngroup by {check.grain}\nhaving" in check.sql


def test_no_table_has_an_index_that_would_slow_a_load(catalogue):
    assert catalogue.execute("select * from duckdb_indexes()").fetchall() == []
    kinds = catalogue.execute("select distinct constraint_type from duckdb_constraints()").fetchall()
    assert kinds == [("NOT NULL",)]


def test_the_schemas_version_changes_with_what_makes_or_fills_it_only(monkeypatch, tmp_path):
    shutil.copytree(sql_folder(), tmp_path / "sql")
    monkeypatch.setattr(module, "sql_folder", lambda: tmp_path / "sql")
    versions = []
    for changed in (None, "checks/no_orphan_scores", "cookbook/strongest_passages", "schema/shards", "changes/unload"):
        if changed:
            path = tmp_path / "sql" / f"{changed}.sql"
            path.write_text(path.read_text() + "-- changed")
        module._statements.cache_clear()
        versions.append(schema_version())
    assert versions[0] == versions[1] == versions[2]
    assert len(set(versions)) == 3


def test_every_file_of_the_schema_makes_one_table_of_its_name():
    for name, statement in statements("schema").items():
        with duckdb.connect() as connection:
            connection.execute(statement.sql).complete()
            assert connection.execute("select table_name from duckdb_tables()").fetchall() == [(name,)]


def _first_words(name):
    kind = "schema" if name in TABLES else "views"
    return statements(kind)[name].purpose[:40]


def test_an_added_folder_brings_tables_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_added_folders", [])
    before = schema_version()
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema" / "more.sql").write_text(
        "-- More.\n-- grain: (more_id)\ncreate table more (more_id bigint);\n"
    )
    use_folders([tmp_path])
    assert list(statements("schema")) == [*TABLES, "more"]
    assert statements("schema")["more"].purpose == "More."
    assert schema_version() != before
    use_folders([])
    assert list(statements("schema")) == TABLES
    assert schema_version() == before


def test_a_table_that_is_there_already_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_added_folders", [])
    (tmp_path / "schema").mkdir()
    shutil.copy(sql_folder() / "schema" / "queries.sql", tmp_path / "schema")
    use_folders([tmp_path])
    with pytest.raises(InputError, match=r"queries\.sql has the same name"):
        statements("schema")


def test_a_folder_of_sql_that_is_missing_is_refused(tmp_path):
    with pytest.raises(InputError, match="missing"):
        use_folders([tmp_path / "missing"])
