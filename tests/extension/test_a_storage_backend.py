"""A storage backend of one file, chosen by the scheme of `storage.root`: it keeps the contract, and a whole study."""

import sqlite3
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest

from influence_assets import extensions
from influence_assets.storage.backend import open_backend
from tests import studies
from tests.commanding import influence
from tests.storage.backend_contract import BackendContract
from tests.studies import TRADES
from tests.tiers import slow_but

EXAMPLE = "sqlite_file"
FOLDER = Path(__file__).parent / EXAMPLE


class TestSqliteFile(BackendContract):
    @pytest.fixture
    def opened(self, extend, tmp_path):
        extend(EXAMPLE)
        return lambda: open_backend(f"{EXAMPLE}://{tmp_path}/store.sqlite")


def test_it_is_discovered_by_an_entry_point(install, tmp_path):
    install(EXAMPLE, "influence_assets.storage.backends")
    backend = open_backend(f"{EXAMPLE}://{tmp_path}/store.sqlite")
    assert type(backend).__module__ == f"made_up_{EXAMPLE}"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study whose own extension folder holds its backend, computed on it. The tests below go on from one another."""
    folder = tmp_path_factory.mktemp("in_a_database")
    study = studies.lay_out(folder, storage={"root": f"{EXAMPLE}://{folder}/store.sqlite"})
    with study.open("a") as file:
        file.write(f"extensions: [{FOLDER}]\n")
    with mock.patch.object(extensions, "_folders", {}):
        finished = influence("run", "--study", study)
    assert finished.code == 0, finished.out + finished.err
    assert f"Computed {len(studies.everything())} partitions" in finished.out
    return study


def stored(study, pattern):
    """The names of the files in the database that are like a pattern."""
    with closing(sqlite3.connect(study.parent / "store.sqlite")) as database:
        rows = database.execute("select name from files where name like ? order by name", [pattern]).fetchall()
    return [name for (name,) in rows]


def succeed(study, *arguments):
    finished = influence(*arguments, "--study", study)
    assert finished.code == 0, finished.out + finished.err
    return finished.out


@pytest.mark.slow
def test_its_scores_and_versions_are_those_of_a_local_disk(study, standing):
    assert studies.data_versions(study) == studies.data_versions(standing)
    assert studies.scores(study) == studies.scores(standing)
    assert stored(study, "influence_scores/%/manifest.json")
    assert not (study.parent / "store").exists()
    assert succeed(study, "run").startswith("Nothing to do")
    assert "are as they were written" in succeed(study, "verify")


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern",
    slow_but(of=["token_sequences/%.parquet", "eigenbases/%/manifest.json", "%/.record-%"], slow=("%/.record-%",)),
)
def test_damage_is_found_and_mended(study, pattern):
    name = stored(study, pattern)[0]
    with closing(sqlite3.connect(study.parent / "store.sqlite")) as database, database:
        (content,) = database.execute("select content from files where name = ?", [name]).fetchone()
        spoilt = bytearray(content)
        spoilt[len(spoilt) // 2] ^= 1
        database.execute("update files set content = ? where name = ?", [bytes(spoilt), name])
    found = influence("verify", "--study", study)
    assert found.code == 1
    assert "Damaged" in found.out
    succeed(study, "run")
    assert "are as they were written" in succeed(study, "verify")


@pytest.mark.soak
def test_what_is_superseded_and_what_is_withdrawn_goes(study):
    studies.write_parquet(study.parent / "corpus" / TRADES, studies.TRADES_ROWS[:2])
    succeed(study, "run")
    assert len(stored(study, "gradient_sketches/trades%/manifest.json")) == 2
    succeed(study, "gc", "--keep", "0")
    assert len(stored(study, "gradient_sketches/trades%/manifest.json")) == 1
    document = studies.ask_sql(study, "select document_id from documents where title = 'Gulls'").item()
    succeed(study, "forget", "--document", document)
    assert studies.ask_sql(study, "select title from documents where title = 'Gulls'").is_empty()
    assert stored(study, "withdrawn.jsonl")
    succeed(study, "verify")
