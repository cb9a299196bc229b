"""An asset of one file, its table's SQL in a folder beside it: it is found, and kept like those of the package."""

import math
import os
import shutil
from collections import Counter
from pathlib import Path

import duckdb
import polars as pl
import pytest

from influence_assets.assets import asset_graph, open_without_extensions
from influence_assets.storage.catalogue import query, run_checks
from influence_assets.study import Study
from influence_assets.upkeep.forget import retract, withdraw
from tests import studies
from tests.commanding import influence, influence_process
from tests.studies import COAST, SHARDS, TRADES
from tests.tiers import slow_but

PARTS = Path(__file__).parent / "parts"
NAME = "token_varieties"


@pytest.fixture(scope="module")
def computed(standing, tmp_path_factory):
    """A study that stood before the asset was added, brought up to date with it. Not to be changed: copy it."""
    study = studies.copied(standing, tmp_path_factory.mktemp("extended"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFLUENCE_EXTENSIONS", str(PARTS))
        ran = influence("run", "--study", study)
    assert ran.code == 0, ran.error
    return study, ran.out


@pytest.fixture
def study(computed, tmp_path, monkeypatch):
    monkeypatch.setenv("INFLUENCE_EXTENSIONS", str(PARTS))
    return studies.copied(computed[0], tmp_path / "study")


def rows(study, sql):
    """What the catalogue answers, as the command prints it."""
    file = study.parent / "answer.json"
    answered = influence("sql", sql, "--output", file, "--study", study)
    assert answered.code == 0, answered.error
    return pl.read_json(file).rows() if file.read_text().strip() not in ("", "[]") else []


def varieties(study):
    return {row[0]: row[1:] for row in rows(study, f"select sequence_id, distinct_tokens, entropy_bits from {NAME}")}


def folder(study, shard):
    """Where the asset's artifact of a shard lies that the study asks for."""
    return studies.artifact(study, NAME, shard=shard).folder


def counted_by_hand(study):
    """Distinct tokens and entropy of every sequence, one token after the other."""
    expected = {}
    for shard in SHARDS:
        packed = studies.artifact(study, "token_sequences", shard=shard)
        ids = packed.table("sequences").collect()["sequence_id"].to_list()
        for sequence, row, length in zip(ids, packed.array("tokens"), packed.array("lengths"), strict=True):
            counts = Counter(row[:length].tolist())
            entropy = sum(count / length * math.log2(length / count) for count in counts.values())
            expected[sequence] = (len(counts), pytest.approx(entropy))
    return expected


def test_only_the_new_asset_and_the_catalogue_are_computed(computed):
    _, out = computed
    lines = [line.split() for line in out.splitlines()]
    # asset, computed, up to date
    counted = {
        words[0]: int(words[1]) for words in lines if len(words) > 2 and words[1].isdigit() and words[2].isdigit()
    }
    assert {name: count for name, count in counted.items() if count} == {NAME: len(SHARDS), "influence_catalogue": 1}


def test_its_table_and_its_view_hold_what_it_computed(study):
    assert varieties(study) == counted_by_hand(study)
    by_shard = dict(rows(study, "select shard_id, sequences from variety_by_shard"))
    assert by_shard == dict(rows(study, "select shard_id, count(*) from sequences group by shard_id"))


def test_once_it_stands_there_is_nothing_to_do(study):
    ran = influence("run", "--study", study)
    assert ran.code == 0, ran.error
    assert "Nothing to do" in ran.out


def test_its_rows_lead_to_what_they_came_from(study):
    led = rows(study, f"select distinct a.asset from {NAME} as v, ancestry_of(v.materialization_id) as a")
    assert {asset for (asset,) in led} == {NAME, "token_sequences", "documents", "language_model"}


def test_its_checks_hold_and_notice_what_is_wrong(study):
    asset = asset_graph()[NAME]
    good = studies.artifact(study, NAME, shard=TRADES)
    ((name, finding),) = asset.checks.findings(good, None)
    assert (name, finding.passed) == ("entropies_are_possible", True)
    impossible = good.table(NAME).collect().with_columns(pl.col("entropy_bits") + 10)
    bad = studies.rewrite(study, NAME, tables={NAME: impossible}, shard=TRADES)
    ((_, finding),) = asset.checks.findings(bad, None)
    assert not finding.passed


def test_its_checks_of_the_table_hold_and_notice_what_is_wrong(study):
    asset_graph()  # brings its SQL
    catalogue = study.parent / "store" / "influence.duckdb"
    names = {"every_sequence_has_its_variety", f"grain_of_{NAME}"}
    assert all(run_checks(catalogue)[name].is_empty() for name in names)
    with duckdb.connect(str(catalogue)) as connection:
        connection.execute(f"insert into {NAME} select * from {NAME} limit 1")
        connection.execute(f"delete from {NAME} where sequence_id = (select max(sequence_id) from {NAME})")
    assert not any(run_checks(catalogue)[name].is_empty() for name in names)


@pytest.mark.slow
def test_sql_that_changes_makes_the_catalogue_anew_once(study, tmp_path, monkeypatch):
    parts = shutil.copytree(PARTS, tmp_path / "parts")
    view = parts / "assets" / "sql" / "views" / "variety_by_shard.sql"
    view.write_text(view.read_text().replace("mean_entropy_bits", "entropy_bits"))
    monkeypatch.setenv("INFLUENCE_EXTENSIONS", str(parts))
    assert "influence_catalogue" in influence("run", "--study", study).out
    assert "Nothing to do" in influence("run", "--study", study).out
    assert rows(study, "select entropy_bits from variety_by_shard")


@pytest.mark.slow
def test_a_flipped_bit_is_found_and_mended(study):
    before = varieties(study)
    file = folder(study, TRADES) / f"{NAME}.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    verified = influence("verify", "--study", study)
    assert verified.code == 1
    assert NAME in verified.out
    ran = influence("run", "--study", study)
    assert ran.code == 0, ran.error
    assert influence("verify", "--study", study).code == 0
    assert varieties(study) == before


@pytest.mark.slow
def test_a_withdrawn_document_leaves_its_rows_and_the_disk(study):
    before, old = varieties(study), folder(study, COAST)
    ((document,),) = rows(study, "select document_id from documents where title = 'Lamp'")
    forgotten = influence("forget", "--document", document, "--study", study)
    assert forgotten.code == 0, forgotten.error
    assert not old.exists()
    assert varieties(study) == counted_by_hand(study)
    assert varieties(study) != before


@pytest.mark.soak
def test_a_withdrawn_document_leaves_the_disk_where_the_asset_is_not_there_any_more(study, monkeypatch):
    old, other = folder(study, COAST), folder(study, TRADES)
    ((document,),) = rows(study, "select document_id from documents where title = 'Lamp'")
    monkeypatch.delenv("INFLUENCE_EXTENSIONS")
    forgotten = influence("forget", "--document", document, "--study", study)
    assert forgotten.code == 0, forgotten.error
    assert not old.exists()
    assert other.exists()


@pytest.mark.slow
@pytest.mark.parametrize("holds_text", slow_but(True, of=[True, False], slow=()))
def test_a_takedown_reaches_rows_of_an_asset_that_cannot_be_loaded_any_more(study, monkeypatch, tmp_path, holds_text):
    """What was published says which rows go with a document; the others, and all tables, stay as they are."""
    path = study.parent / "store" / "influence.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"update materializations set holds_text = {holds_text} where asset = '{NAME}'")
    lost = set(studies.sequences_of(study, COAST))
    before = set(query(path, f"select sequence_id from {NAME}")["sequence_id"])
    document = query(path, "select document_id from documents where title = 'Lamp'").item()
    (tmp_path / "broken" / "assets").mkdir(parents=True)
    (tmp_path / "broken" / "assets" / f"{NAME}.py").write_text("import nothing_of_this_name")
    monkeypatch.setenv("INFLUENCE_EXTENSIONS", str(tmp_path / "broken"))
    loaded = Study.load(study)
    withdraw(open_without_extensions(loaded), [document], "by letter")
    assert retract(open_without_extensions(loaded), [document]) == [COAST]
    assert set(query(path, f"select sequence_id from {NAME}")["sequence_id"]) == before - (
        lost if holds_text else set()
    )
    assert query(path, "select distinct shard_id from sequences")["shard_id"].to_list() == [TRADES]
    assert query(path, "from tombstones")["document_id"].to_list() == [document]
    monkeypatch.setenv("INFLUENCE_EXTENSIONS", str(PARTS))
    assert influence("run", "--study", study).code == 0
    assert varieties(study) == counted_by_hand(study)


@pytest.mark.slow
def test_what_a_changed_file_supersedes_is_collected(study):
    old = folder(study, TRADES)
    studies.write_parquet(study.parent / "corpus" / TRADES, studies.TRADES_ROWS[:2])
    assert influence("run", "--study", study).code == 0
    assert old.exists()
    assert influence("gc", "--keep", "0", "--study", study).code == 0
    assert not old.exists()
    assert folder(study, TRADES).exists()
    assert varieties(study) == counted_by_hand(study)


@pytest.mark.soak
def test_a_file_that_vanishes_takes_its_rows_along(study):
    (study.parent / "corpus" / TRADES).unlink()
    assert influence("run", "--study", study).code == 0
    of_shards = dict(rows(study, "select shard_id, sequences from variety_by_shard"))
    assert set(of_shards) == {COAST}


@pytest.mark.slow
def test_without_it_the_study_is_as_it_was(study, monkeypatch):
    monkeypatch.delenv("INFLUENCE_EXTENSIONS")
    ran = influence("run", "--study", study)
    assert ran.code == 0, ran.error
    assert rows(study, f"select table_name from duckdb_tables() where table_name = '{NAME}'") == []


@pytest.mark.soak
def test_a_study_can_name_its_folder(study, monkeypatch):
    monkeypatch.delenv("INFLUENCE_EXTENSIONS")
    study.write_text(study.read_text() + f"extensions: [{PARTS}]\n")
    assert "Nothing to do" in ended("run", "--study", study, folder=study.parent)


@pytest.mark.soak
def test_it_can_be_installed(study, tmp_path, monkeypatch):
    monkeypatch.delenv("INFLUENCE_EXTENSIONS")
    site = tmp_path / "site"
    shutil.copytree(PARTS / "assets", site / "varieties_package", ignore=shutil.ignore_patterns("__pycache__"))
    (site / "varieties_package" / "__init__.py").touch()
    described = site / "varieties-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: varieties\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(
        f"[influence_assets.assets]\n{NAME} = varieties_package.{NAME}\n", encoding="utf-8"
    )
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(site)])
    out = ended("run", "--study", study, folder=study.parent, environment={"PYTHONPATH": path})
    assert "Nothing to do" in out


def ended(*arguments, folder, environment=None):
    """What a process of its own prints that ends well."""
    process = influence_process(*arguments, folder=folder, environment=environment)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out
