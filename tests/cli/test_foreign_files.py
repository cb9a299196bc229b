"""No command deletes, renames, marks or writes into anything that the product did not make."""

from pathlib import Path

import pytest

from tests import studies
from tests.commanding import influence
from tests.foreign import every_path, fingerprints, plant
from tests.studies import TRADES


@pytest.mark.slow
def test_no_command_touches_what_others_keep_in_the_store(study):
    store = study.parent / "store"
    foreign = plant(store)
    before = fingerprints(foreign)
    sources = set(every_path(study.parent / "corpus")) | set(every_path(study.parent / "queries"))
    document = studies.ask_sql(study, "select document_id from documents where title = 'Gulls'")["document_id"][0]

    def unharmed(*arguments: str | Path) -> None:
        read = fingerprints(sources)
        ended = influence(*arguments, "--study", study)
        assert ended.code == 0, (arguments, ended.out + ended.err)
        assert fingerprints(foreign) == before, arguments
        assert fingerprints(sources) == read, arguments

    for command in ("status", "plan", "run", "verify"):
        unharmed(command)
    studies.write_parquet(study.parent / "corpus" / TRADES, studies.TRADES_ROWS[:2])  # so that something is superseded
    unharmed("run")
    unharmed("gc")
    unharmed("gc", "--keep", "0")
    unharmed("forget", "--document", document)
    unharmed("rebuild-catalogue")
    for path in sorted(store.glob("token_sequences/*/*/manifest.json"))[:1]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
        assert influence("verify", "--study", study).code == 1
    unharmed("run")
    for command in ("verify", "status"):
        unharmed(command)


def test_a_root_that_holds_other_things_is_refused_and_left_as_it_is(tmp_path):
    study = studies.lay_out(tmp_path, storage={"root": "notes"})
    thesis = tmp_path / "notes" / "a" / "b" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("mine")
    before = set(every_path(tmp_path))
    for command in ("run", "verify", "gc", "status", "plan", "rebuild-catalogue"):
        ended = influence(command, "--study", study)
        assert ended.code != 0
        assert "storage.root" in ended.error
        assert "holds other things (a)" in ended.error
        assert {path for path in every_path(tmp_path) if ".dagster" not in path.parts} == before
