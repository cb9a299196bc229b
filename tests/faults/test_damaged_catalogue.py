"""The DuckDB file, damaged: `verify` names it, and it is built again from the artifacts."""

import pytest

from influence_assets.errors import InputError, StorageError
from influence_assets.storage.catalogue import query, run_checks
from tests.faults import comparison, working
from tests.faults.changing import FILES
from tests.tiers import slow_but

BLOCK = 2**18


def damage(path, place):
    """Spoil a part of a file, place being the share of it that lies before."""
    content = bytearray(path.read_bytes())
    start = int(len(content) * place)
    content[start : start + 64] = bytes(byte ^ 0xFF for byte in content[start : start + 64])
    path.write_bytes(content)


def holding(path, text):
    """The share of a file that lies before a text in it."""
    content = path.read_bytes()
    assert text in content
    return (content.index(text) - 8) / len(content)


PLACES = {
    "the header": lambda _path: 0.0,
    "rows of documents": lambda path: holding(path, b"rings the bell at noon."),
    "the manifests": lambda path: holding(path, b"covariances"),
}


@pytest.mark.slow
@pytest.mark.parametrize("place", slow_but("the manifests", of=PLACES, slow=("rows of documents",)))
def test_verify_names_it_and_rebuilding_mends_it(ground, corpus, place):
    before, path = comparison.rows(ground.study), ground.store / "influence.duckdb"
    damage(path, PLACES[place](path))
    found = working.look(ground.study)
    assert found
    assert all(trouble.where == str(path) for trouble in found)
    assert all("rebuild-catalogue" in trouble.remedy for trouble in found)
    working.rebuild(ground.study)
    assert working.look(ground.study) == []
    comparison.assert_equal_tables(comparison.rows(ground.study), before)


@pytest.mark.parametrize("place", slow_but("the manifests", of=PLACES, slow=()))
def test_a_reader_gets_an_error_or_what_was_written(ground, corpus, place):
    before, path = comparison.rows(ground.study), ground.store / "influence.duckdb"
    damage(path, PLACES[place](path))
    refused = 0
    for table, expected in before.items():
        try:
            found = query(path, f"from {table}").select(expected.columns)
        except (InputError, StorageError):
            refused += 1
        else:
            comparison.assert_equal_rows(table, found, expected)
    assert refused


@pytest.mark.parametrize("place", slow_but("the manifests", of=PLACES, slow=()))
@pytest.mark.slow
def test_a_run_builds_on_nothing_that_is_damaged(ground, corpus, place):
    """It begins from nothing, or says that it cannot, and what to do."""
    path = ground.store / "influence.duckdb"
    damage(path, PLACES[place](path))
    corpus.write(FILES[2], [6, 7])
    corpus.write(FILES[0], [0, 2, 8])
    said = working.attempt(working.run, ground.study)
    failures = [said] if isinstance(said, str) else said.failures
    assert all("rebuild-catalogue" in failure for failure in failures), failures
    if failures:
        working.rebuild(ground.study)
        assert not working.run(ground.study).failures
    assert working.look(ground.study) == []
    assert not [name for name, rows in run_checks(path).items() if len(rows)]
    comparison.assert_equal_catalogues(ground.study, comparison.from_scratch(ground.study))


@pytest.mark.parametrize("removed", ["influence.duckdb", "influence_catalogue"])
@pytest.mark.slow
def test_a_catalogue_that_is_gone_is_loaded_again_and_nothing_else(ground, corpus, removed):
    before, path = comparison.rows(ground.study), ground.store / removed
    path.rename(ground.folder / "elsewhere")
    assert working.run(ground.study).computed == ["influence_catalogue"]
    comparison.assert_equal_tables(comparison.rows(ground.study), before)
