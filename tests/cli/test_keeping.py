"""Withdrawing, verifying, collecting and another generation, as a person types them."""

import errno
import hashlib
import io
import os
import re
import shutil
import sys
import textwrap
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import yaml

from influence_assets.assets import open_workspace
from influence_assets.cli import study_runs
from influence_assets.cli.console import console
from influence_assets.engine.fingerprint import fingerprint
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import StorageError
from influence_assets.extensions import EXTENSIONS
from influence_assets.storage.catalogue import query, run_checks
from influence_assets.study import Study
from influence_assets.upkeep import garbage
from tests import studies
from tests.commanding import influence
from tests.studies import COAST, EXTRA, SHARDS, TRADES
from tests.tiers import slow_but

GULLS = studies.COAST_ROWS[3]["text"]
LETTERS, TOKENS = 12, 6
"""So many in a row are found nowhere else in these tests' texts."""

TOMBSTONES = "select shard_id, document_id, reason from tombstones order by all"
DOCUMENTS = "select shard_id, title from documents order by all"


def document_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def workspace(study: Path) -> Workspace:
    return open_workspace(Study.load(study))


def titles(study: Path) -> set[str]:
    return set(studies.ask_sql(study, DOCUMENTS)["title"])


ALL_TITLES = {row["title"] for row in studies.COAST_ROWS + studies.TRADES_ROWS}


class Traces:
    """What would give a document away wherever it is: runs of its letters, and of its tokens."""

    def __init__(self, text: str, others: list[str]) -> None:
        tokenizer = studies.tokenizer()
        kept = "\n".join(others)
        cut = (text[start : start + LETTERS] for start in range(len(text) - LETTERS))
        self.letters = [letters.encode() for letters in cut if letters not in kept]
        tokens = tokenizer.encode(text).ids
        self.tokens = [tuple(tokens[start : start + TOKENS]) for start in range(len(tokens) - TOKENS)]
        assert len(self.letters) > 30
        assert len(self.tokens) > 10

    def of_bytes(self, content: bytes) -> bool:
        """Whether there is one in a file as it lies on the disk."""
        as_numbers = (np.array(run, dtype).tobytes() for run in self.tokens for dtype in ("<i4", "<i8", "<u2"))
        return any(trace in content for trace in [*self.letters, *as_numbers])

    def of_numbers(self, array: np.ndarray) -> bool:
        """Whether there is one in an array that was stored compressed."""
        text = "," + ",".join(map(str, array.ravel().tolist())) + ","
        return any("," + ",".join(map(str, run)) + "," in text for run in self.tokens)

    def found(self, study: Path) -> set[str]:
        """Every place below the storage root where there is one, read as it lies and as it is meant."""
        root = study.parent / "store"
        found = {
            str(path.relative_to(root))
            for path in root.rglob("*")
            if path.is_file() and self.of_bytes(path.read_bytes())
        }
        store = workspace(study).store
        for manifest in store.manifests():
            artifact = store.open(manifest.key)
            numbers = (artifact.array(name) for name in artifact.array_names())
            rows = (artifact.table(name).collect().write_json().encode() for name in manifest.rows)
            held = any(array.dtype.kind in "iu" and self.of_numbers(array) for array in numbers)
            if held or any(self.of_bytes(as_text(content)) for content in rows):
                found.add(str(manifest.key))
        for table in studies.ask_sql(study, "select table_name from duckdb_tables()")["table_name"]:
            rows = studies.ask_sql(study, f"select columns(*)::varchar from {table}").rows()
            if self.of_bytes(repr(rows).encode()):
                found.add(f"table {table}")
        return found


def as_text(content: bytes) -> bytes:
    """JSON's own spelling undone."""
    return content.decode("unicode_escape", errors="surrogatepass").encode("latin-1", "ignore") + content


@pytest.fixture
def traces():
    others = [row["text"] for row in studies.COAST_ROWS[:3] + studies.TRADES_ROWS]
    questions = [row[name] for row in studies.FIRST_ROWS + studies.SECOND_ROWS for name in ("prompt", "completion")]
    return Traces(GULLS, [*others, *questions])


@pytest.mark.slow
def test_of_a_forgotten_document_nothing_is_left_but_its_tombstone(study, traces):
    """Neither in tables and arrays nor in any file below the storage root, Dagster's own included."""
    before = traces.found(study)
    known = {re.sub(r" @ .*", "", place) for place in before}
    assert {f"documents[{COAST}]", f"token_sequences[{COAST}]", "table sequences", "influence.duckdb"} <= known
    run_before = studies.ask_sql(study, "select max(run_id) from materializations").item()
    ended = influence("forget", "--document", document_id(GULLS), "--reason", "by letter", "--study", study)
    assert (ended.code, ended.err) == (0, ""), ended.out
    assert "Listed as withdrawn: 1, already listed: 0." in ended.out
    assert re.search(rf"{COAST} +{document_id(GULLS)} +by letter", ended.out)
    assert "The catalogue was rebuilt." in ended.out
    assert traces.found(study) == set()
    assert titles(study) == ALL_TITLES - {"Gulls"}
    assert studies.ask_sql(study, TOMBSTONES).rows() == [(COAST, document_id(GULLS), "by letter")]
    assert (study.parent / "store" / ".dagster").is_dir()

    # Lineage reaches what is gone: the generation names what it was fitted on, by whom and when.
    fitted = studies.ask_sql(
        study,
        "select asset, partition, run_id, bytes from materializations where not is_loaded and partition = $1 "
        "and run_id <> $2 order by asset",
        [COAST, ""],
    )
    store = workspace(study).store
    recorded = [m.key for m in store.manifests(with_records=True) if not store.holds(m.key)]
    assert {(key.asset, key.partition) for key in recorded} == {
        ("covariances", None),
        ("documents", COAST),
        ("token_sequences", COAST),
    }
    assert {"documents", "token_sequences"} <= set(fitted["asset"])
    assert run_before in set(fitted["run_id"])
    assert {name for name, rows in run_checks(workspace(study).catalogue).items() if rows.height} == set()
    ended = influence("run", "--study", study)
    assert ended.out.startswith("Nothing to do")
    assert influence("verify", "--study", study).code == 0


@pytest.mark.slow
def test_a_document_is_forgotten_while_another_file_is_broken(study, traces):
    """What it was published with leaves the tables at once, and the disk; the rest comes back with the next run."""
    (study.parent / "corpus" / TRADES).write_bytes(b"no Parquet")
    ended = influence("forget", "--document", document_id(GULLS), "--study", study)
    assert ended.code == 1
    assert f"Failed documents [{TRADES}]: " in ended.out
    assert "their shards were taken out of the published tables as they are" in ended.out
    assert traces.found(study) == set()
    assert titles(study) == {row["title"] for row in studies.TRADES_ROWS}, "what was there of the broken file stays"
    assert {shard for shard, *_ in studies.ask_sql(study, TOMBSTONES).rows()} == {COAST}
    studies.write_parquet(study.parent / "corpus" / TRADES, studies.TRADES_ROWS)
    ended = influence("run", "--study", study)
    assert ended.code == 0, ended.out
    assert titles(study) == ALL_TITLES - {"Gulls"}
    assert traces.found(study) == set()


@pytest.mark.soak
def test_a_document_can_be_listed_alone(study, traces):
    before = studies.catalogue_rows(study)
    ended = influence("forget", "--only-list", "--document", document_id(GULLS), "--study", study)
    assert ended.code == 0
    assert "`influence run` takes them out of every table, `influence gc` from the disk." in ended.out
    assert studies.catalogue_rows(study) == before
    assert influence("run", "--study", study).code == 0
    assert titles(study) == ALL_TITLES - {"Gulls"}
    assert traces.found(study), "until it is collected"
    ended = influence("gc", "--keep", "5", "--study", study)
    assert ended.code == 0
    assert traces.found(study) == set()
    again = influence("forget", "--only-list", "--document", document_id(GULLS), "--study", study)
    assert "Listed as withdrawn: 0, already listed: 1." in again.out
    assert "1 document is listed as withdrawn." in influence("status", "--study", study).out


@pytest.mark.slow
def test_what_an_incomplete_run_did_not_look_for_is_not_denied(study, monkeypatch):
    """Another document of a shard that has left the tables already has no tombstone, but its file still has it."""
    lamp = document_id(studies.COAST_ROWS[1]["text"])
    with monkeypatch.context() as patch:
        patch.setattr(study_runs, "run_study", _no_run)
        assert influence("forget", "--document", document_id(GULLS), "--study", study).code == 1
        ended = influence("forget", "--document", lamp, "--document", document_id(GULLS), "--study", study)
    assert ended.code == 1
    assert "No shard had" not in ended.out
    assert f"Without a tombstone: {lamp}. Whether a source file has the text is not known" in ended.out
    ended = influence("forget", "--document", lamp, "--document", "0" * 32, "--study", study)
    assert ended.code == 0
    assert re.search(rf"{COAST} +{lamp}", ended.out)
    assert f"No shard had {'0' * 32}. Should such a text come, it will be left out." in ended.out


@pytest.mark.soak
def test_an_id_that_no_shard_has_is_listed_for_when_its_text_comes(study):
    ended = influence("forget", "--document", document_id(studies.EXTRA_TEXT), "--study", study)
    assert ended.code == 0
    assert "No shard had such a document. Should its text come, it will be left out." in ended.out
    studies.write_extra(study)
    assert influence("run", "--study", study).code == 0
    assert titles(study) == ALL_TITLES
    assert {shard for shard, _ in studies.ask_sql(study, DOCUMENTS).rows()} == set(SHARDS)
    assert studies.ask_sql(study, TOMBSTONES).rows() == [(EXTRA, document_id(studies.EXTRA_TEXT), "withdrawn")]


@pytest.mark.parametrize("malformed", ["", "Gulls", "A" * 32, document_id(GULLS)[:31], f"{document_id(GULLS)} "])
def test_what_is_no_id_is_one_paragraph_and_lists_nothing(study, malformed):
    ended = influence("forget", "--document", document_id(GULLS), "--document", malformed, "--study", study)
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert "is not a document_id. Take the document_id of the table `documents`" in ended.err
    assert not (study.parent / "store" / "withdrawn.jsonl").exists()
    assert influence("run", "--study", study).out.startswith("Nothing to do")


@pytest.mark.slow
def test_damage_is_found_named_and_mended(study):
    ended = influence("verify", "--study", study)
    artifacts = len(list(workspace(study).store.manifests(with_records=True)))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"All {artifacts} artifacts and the catalogue are as they were written.\n"

    folder = studies.artifact(study, "influence_scores", shard=COAST, query_set=studies.FIRST).folder
    table = folder / "influence_scores.parquet"
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    ended = influence("verify", "--study", study)
    assert ended.code == 1
    (line, place, remedy) = ended.out.splitlines()
    assert line.startswith("Damaged influence_scores[first.jsonl|letters/coast.jsonl]")
    assert line.endswith(": influence_scores.parquet is not as it was written")
    assert place.strip() == str(folder)
    assert "`influence run` computes it again" in remedy
    assert "its files are damaged" in influence("status", "--study", study).out
    ended = influence("run", "--study", study)
    assert ended.code == 0
    assert "Computed 1 partition in" in ended.out
    assert influence("verify", "--study", study).code == 0


def unlistable(folder: Path):
    """As if a folder were on a disk that does not answer: root may read whatever `chmod` says."""
    real = os.scandir

    def scandir(path="."):
        if str(path).rstrip("/") == str(folder):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    return mock.patch.object(os, "scandir", scandir)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    slow_but(of=[("run",), ("gc", "--keep", "0"), ("gc", "--yes"), ("status",)], slow=[("run",), ("gc", "--yes")]),
)
def test_a_folder_that_cannot_be_listed_is_an_error_and_costs_nothing(study, command):
    before, artifacts = studies.catalogue_rows(study), {m.key for m in workspace(study).store.manifests()}
    folder = study.parent / "corpus" / Path(COAST).parent
    with unlistable(folder):
        ended = influence(*command, "--study", study)
    assert ended.code == 1
    assert f"{folder}/: the folder cannot be listed (Permission denied)." in ended.error
    assert studies.catalogue_rows(study) == before
    assert {m.key for m in workspace(study).store.manifests()} == artifacts
    assert not (study.parent / "store" / "tombstones.jsonl").read_text().count("vanished")
    assert influence("run", "--study", study).out.startswith("Nothing to do")


def moved_behind_a_link(corpus: Path) -> Path:
    (corpus / "letters").rename(corpus.parent / "elsewhere")
    (corpus / "letters").symlink_to(corpus.parent / "elsewhere")
    return corpus / "letters"


def file_for_folder(corpus: Path) -> Path:
    (corpus / "letters").rename(corpus.parent / "elsewhere")
    (corpus / "letters").write_text("no folder")
    return corpus / "letters"


def folder_for_file(corpus: Path) -> Path:
    (corpus / TRADES).unlink()
    (corpus / TRADES).mkdir()
    return corpus / TRADES


def pipe_for_file(corpus: Path) -> Path:
    (corpus / TRADES).unlink()
    os.mkfifo(corpus / TRADES)
    return corpus / TRADES


NOT_GONE = [moved_behind_a_link, file_for_folder, folder_for_file, pipe_for_file]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    slow_but(of=[("run",), ("gc", "--keep", "0", "--yes"), ("status",)], slow=[("gc", "--keep", "0", "--yes")]),
)
@pytest.mark.parametrize("change", NOT_GONE)
def test_what_is_there_but_is_not_read_is_an_error_and_costs_nothing(study, change, command):
    before, artifacts = studies.catalogue_rows(study), {m.key for m in workspace(study).store.manifests()}
    place = change(study.parent / "corpus")
    ended = influence(*command, "--study", study)
    assert ended.code == 1
    assert f"{place}: is " in ended.error
    assert "Gone from the corpus" not in ended.out
    assert studies.catalogue_rows(study) == before
    assert {m.key for m in workspace(study).store.manifests()} == artifacts
    assert not (study.parent / "store" / "tombstones.jsonl").read_text().count("vanished")


def test_an_empty_corpus_is_an_error_and_costs_nothing(study):
    """As of a disk that is not mounted: its mount point is an empty folder."""
    before, artifacts = studies.catalogue_rows(study), {m.key for m in workspace(study).store.manifests()}
    (study.parent / "corpus").rename(study.parent / "elsewhere")
    (study.parent / "corpus").mkdir()
    for command in (("run",), ("gc", "--keep", "0", "--yes")):
        ended = influence(*command, "--study", study)
        assert ended.code == 1
        assert "holds no readable file" in ended.error
        assert "if a disk belongs there, mount it" in ended.error
    assert studies.catalogue_rows(study) == before
    assert {m.key for m in workspace(study).store.manifests()} == artifacts


@pytest.mark.slow
def test_a_run_says_what_vanished(study):
    content = (study.parent / "corpus" / TRADES).read_bytes()
    (study.parent / "corpus" / TRADES).unlink()
    ended = influence("run", "--study", study)
    assert ended.code == 0
    assert f"Gone from the corpus: 1 shard with 3 documents: {TRADES}. Their rows leave the tables" in ended.out
    assert "Gone from the corpus" not in influence("run", "--study", study).out, "once"
    (study.parent / "corpus" / TRADES).write_bytes(content)
    assert "Computed 1 partition" in influence("run", "--study", study).out


def vanish(study: Path) -> set[str]:
    """Remove a file, run, and return what is stored of it."""
    (study.parent / "corpus" / TRADES).unlink()
    assert influence("run", "--study", study).code == 0
    return stored_of(study, TRADES)


def stored_of(study: Path, shard: str) -> set[str]:
    return {str(m.key) for m in workspace(study).store.manifests() if str(m.key.partition).endswith(shard)}


@pytest.mark.slow
def test_much_that_vanished_goes_only_if_a_person_says_so(study):
    before = vanish(study)
    ended = influence("gc", "--study", study)
    assert ended.code == 1
    assert f"3 of the store's 7 documents would go, because the files of {TRADES} are gone" in ended.error
    assert "If a disk is missing, mount it; if they may go, give `--yes`." in ended.error
    assert f"  gradient_sketches[{TRADES}]" in ended.out, "what would go"
    assert stored_of(study, TRADES) == before
    assert influence("gc", "--dry-run", "--study", study).code == 0
    assert stored_of(study, TRADES) == before
    assert influence("gc", "--yes", "--study", study).code == 0
    assert stored_of(study, TRADES) == set()
    assert influence("gc", "--study", study).code == 0, "there is nothing left to ask about"


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("y\n", 0)])
def test_at_a_terminal_it_is_asked(study, monkeypatch, answer, code):
    before = vanish(study)
    stdin = io.StringIO(answer)
    stdin.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr(type(console), "is_terminal", True)
    ended = influence("gc", "--study", study)
    assert ended.code == code, ended.out + ended.err
    assert "Remove what was computed of them?" in ended.out
    assert stored_of(study, TRADES) == (before if code else set())


@pytest.mark.slow
def test_a_few_that_vanished_go_without_a_question(study, monkeypatch):
    vanish(study)
    monkeypatch.setattr(garbage, "LARGEST_VANISHED_SHARE", 3 / 7)
    assert influence("gc", "--study", study).code == 0
    assert stored_of(study, TRADES) == set()


@pytest.mark.slow
def test_forgetting_removes_what_it_forgets_and_spares_what_gc_would_ask_about(study, traces):
    before = vanish(study)
    ended = influence("forget", "--document", document_id(GULLS), "--study", study)
    assert ended.code == 0, ended.out + ended.err
    assert "What was computed of 1 shards whose files are gone from the corpus stays" in ended.out
    assert stored_of(study, TRADES) == before
    assert traces.found(study) == set()


def break_dagster(study: Path) -> None:
    for path in (study.parent / "store" / ".dagster").rglob("*.db"):
        path.write_bytes(b"no database" * 1000)


def break_corpus(study: Path) -> None:
    (study.parent / "corpus" / "dead.jsonl").symlink_to(study.parent / "nowhere")


EXTENSION_FILES = {
    "assets/broken.py": "import nothing_of_this_name",
    "assets/leaving.py": "raise SystemExit(0)",
    "assets/twice.py": "from influence_assets.assets.documents import ASSET",
    "assets/dangling.py": """
        from dataclasses import replace
        from influence_assets.assets.token_sequences import ASSET
        ASSET = replace(ASSET, name="dangling", inputs=("nothing_of_this_name",))
    """,
    "assets/without_sql.py": """
        from dataclasses import replace
        from pathlib import Path
        from influence_assets.assets.token_sequences import ASSET
        ASSET = replace(ASSET, name="without_sql", sql=Path("/nothing/of/this/name"))
    """,
    "assets/with_bad_sql.py": """
        from dataclasses import replace
        from pathlib import Path
        from influence_assets.assets.token_sequences import ASSET
        sql = Path(__file__).parent / "sql"
        (sql / "schema").mkdir(parents=True, exist_ok=True)
        (sql / "schema" / "bad.sql").write_text("-- Nothing.\\n-- grain: none\\ncreate tabel bad;")
        ASSET = replace(ASSET, name="with_bad_sql", sql=sql)
    """,
    "methods/broken.py": "METHOD = 5",
    "formats/broken.py": "FORMAT = 5",
    "backends/broken.py": "BACKEND = 5",
    "commands/broken.py": "COMMAND = 5",
}
"""Files of an extension folder, none of which can be used."""


def name_an_extension(study: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Name an extension folder with one faulty file; commands are looked for in those of the environment alone."""
    file = study.parent / "extension" / name
    file.parent.mkdir(parents=True)
    file.write_text(textwrap.dedent(EXTENSION_FILES[name]))
    monkeypatch.setenv(EXTENSIONS, str(study.parent / "extension"))


def change_study(study: Path, section: str, value: object) -> None:
    described = yaml.safe_load(study.read_text())
    described[section] = value if not isinstance(value, dict) else described.get(section, {}) | value
    study.write_text(yaml.safe_dump(described))


def list_nonsense(study: Path) -> None:
    (study.parent / "nonsense.txt").write_text("}{\n")
    change_study(study, "corpus", {"withdrawn": "nonsense.txt"})


UNRELATED_FAULTS = {
    "a method that is gone": lambda study, _: change_study(study, "methods", ["ekfac", "odd"]),
    "an extension folder that is gone": lambda study, _: change_study(study, "extensions", ["gone"]),
    "a folder of the environment that is gone": lambda _, patch: patch.setenv(EXTENSIONS, "/nothing/of/this/name"),
    "an unreadable list of the study": lambda study, _: list_nonsense(study),
    **{name: lambda study, patch, name=name: name_an_extension(study, patch, name) for name in EXTENSION_FILES},
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", UNRELATED_FAULTS)
def test_a_takedown_needs_neither_methods_nor_extensions_nor_the_studys_list(study, monkeypatch, fault):
    UNRELATED_FAULTS[fault](study, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(study_runs, "run_study", _no_run)
        ended = influence("forget", "--document", document_id(GULLS), "--reason", "by letter", "--study", study)
    assert (ended.code, ended.err) == (1, "")
    assert "Listed as withdrawn: 1, already listed: 0." in ended.out
    assert "their shards were taken out of the published tables as they are" in ended.out
    path = study.parent / "store" / "influence.duckdb"
    assert set(query(path, DOCUMENTS)["title"]) == {row["title"] for row in studies.TRADES_ROWS}
    assert query(path, TOMBSTONES).rows() == [(COAST, document_id(GULLS), "by letter")]
    if "list of the study" not in fault:  # which might still name the document
        ended = influence("forget", "--undo", "--document", document_id(GULLS), "--study", study)
        assert (ended.code, ended.err) == (0, "")
        assert "Taken off the list: 1, not on it: 0." in ended.out


def _no_run(*_arguments: object) -> bool:
    raise StorageError("nothing can be run")


@pytest.mark.slow
def test_after_a_takedown_the_fault_is_named_and_the_run_that_follows_its_removal_completes_it(study):
    change_study(study, "methods", ["ekfac", "odd"])
    ended = influence("forget", "--document", document_id(GULLS), "--study", study)
    assert ended.code == 1
    assert "up to date without them: methods.1: there is no method 'odd'" in ended.out
    change_study(study, "methods", ["ekfac", "gradient_dot"])
    assert influence("run", "--study", study).code == 0
    assert titles(study) == ALL_TITLES - {"Gulls"}


@pytest.mark.slow
@pytest.mark.parametrize("content", slow_but(of=[b"garbage", b"garbage\n" * 1000, bytes(8192)], slow=(b"garbage",)))
@pytest.mark.parametrize(
    "name", slow_but(of=["history/runs.db", "history/runs/index.db"], slow=("history/runs/index.db",))
)
def test_a_broken_dagster_store_is_one_paragraph_with_its_remedy(study, name, content):
    home = study.parent / "store" / ".dagster"
    (home / name).write_bytes(content)
    studies.write_jsonl(study.parent / "queries" / studies.SECOND, [{"prompt": "The bell", "completion": " rings"}])
    ended = influence("run", "--study", study)
    assert ended.code == 1
    assert "Traceback" not in ended.out + ended.err
    assert f"Error {home}: Dagster cannot use what it keeps there" in ended.error
    assert "Move this folder aside and run again" in ended.error
    home.rename(study.parent / "aside")
    assert influence("run", "--study", study).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("broken", slow_but(of=[break_dagster, break_corpus], slow=(break_corpus,)))
def test_a_document_is_taken_down_whatever_else_is_broken(study, broken):
    broken(study)
    ended = influence("forget", "--document", document_id(GULLS), "--reason", "by letter", "--study", study)
    assert ended.code == 1
    assert "Listed as withdrawn: 1" in ended.out
    assert "Failed to bring the study up to date without them: " in ended.out
    assert "their shards were taken out of the published tables as they are" in ended.out
    assert titles(study) == {row["title"] for row in studies.TRADES_ROWS}
    assert studies.ask_sql(study, TOMBSTONES).rows() == [(COAST, document_id(GULLS), "by letter")]
    shutil.rmtree(study.parent / "store" / ".dagster")
    (study.parent / "corpus" / "dead.jsonl").unlink(missing_ok=True)
    ended = influence("run", "--study", study)
    assert ended.code == 0, ended.out + ended.err
    assert titles(study) == ALL_TITLES - {"Gulls"}


@pytest.mark.soak
def test_a_damaged_list_is_reported_and_no_text_comes_back(study, traces):
    assert influence("forget", "--document", document_id(GULLS), "--study", study).code == 0
    path = study.parent / "store" / "withdrawn.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    ended = influence("verify", "--study", study)
    assert ended.code == 1
    assert f"{path}" in ended.out
    assert "It was repaired from its other copy." in ended.out
    path.unlink()
    (path.parent / ".copies" / path.name).unlink()
    ended = influence("run", "--study", study)
    assert ended.code == 0
    assert f"Withdrawn documents: {path} is missing, although tombstones name documents of it." in ended.out
    assert traces.found(study) == set()


@pytest.mark.slow
@pytest.mark.parametrize("content", slow_but(of=[b"", b"\0" * 200, b"}{\n"], slow=(b"}{\n",)))
def test_a_list_without_a_whole_copy_stops_everything_but_a_takedown_until_it_is_restored(study, content):
    """The catalogue and the artifacts still know of what was withdrawn, but not of what no shard had."""
    assert influence("forget", "--document", document_id(GULLS), "--study", study).code == 0
    assert influence("forget", "--only-list", "--document", "0" * 32, "--study", study).code == 0
    store = study.parent / "store"
    for name in ("withdrawn.jsonl", "tombstones.jsonl"):
        for path in (store / name, store / ".copies" / name):
            path.write_bytes(content)
    for command in ("run", "status", "gc", "plan"):
        ended = influence(command, "--study", study)
        assert ended.code == 1, command
        assert f"{store / 'withdrawn.jsonl'} and {store / '.copies' / 'withdrawn.jsonl'}: neither is" in ended.error
        assert "influence forget --restore" in ended.error
    assert "influence forget --restore" in influence("verify", "--study", study).out
    with pytest.raises(StorageError, match="influence forget --restore"):  # what the sensor looks at
        fingerprint(workspace(study))
    tower = document_id(studies.COAST_ROWS[0]["text"])
    ended = influence("forget", "--document", tower, "--study", study)
    assert ended.code == 1
    assert "Listed as withdrawn: 1" in ended.out
    assert titles(study) == {row["title"] for row in studies.TRADES_ROWS}
    assert influence("run", "--study", study).code == 1, "a takedown does not say that the list is complete"
    ended = influence("forget", "--restore", "--document", "0" * 32, "--study", study)
    assert ended.code == 0, ended.err
    assert all(one in ended.out for one in (tower, document_id(GULLS), "0" * 32, "names 3 documents"))
    assert influence("run", "--study", study).code == 0
    assert titles(study) == ALL_TITLES - {"Gulls", "Tower"}


def test_a_document_is_used_again_on_purpose(study):
    assert influence("forget", "--only-list", "--document", document_id(GULLS), "--study", study).code == 0
    ended = influence("forget", "--undo", "--document", document_id(GULLS), "--study", study)
    assert ended.code == 0
    assert "Taken off the list: 1, not on it: 0." in ended.out
    assert influence("run", "--study", study).out.startswith("Nothing to do")


@pytest.mark.soak
def test_superseded_versions_are_collected(study):
    studies.write_parquet(study.parent / "corpus" / TRADES, studies.TRADES_ROWS[:2])
    assert influence("run", "--study", study).code == 0
    nothing = influence("gc", "--study", study)
    assert nothing.out.startswith("There is nothing to remove."), "one version is kept"
    would = influence("gc", "--keep", "0", "--dry-run", "--study", study)
    assert re.match(r"Would remove (\d+) artifacts", would.out).group(1) not in ("0", None)
    assert f"  gradient_sketches[{TRADES}]" in would.out
    before = len(list(workspace(study).store.manifests()))
    did = influence("gc", "--keep", "0", "--study", study)
    assert did.code == 0
    assert did.out.split(":")[0].replace("Removed", "Would remove") == would.out.split(":")[0]
    count = int(re.match(r"Removed (\d+) artifacts", did.out).group(1))
    assert len(list(workspace(study).store.manifests())) == before - count
    assert influence("run", "--study", study).out.startswith("Nothing to do")


@pytest.mark.slow
def test_while_a_run_is_at_work_nothing_is_collected(study):
    with workspace(study).store.shared_lock():
        ended = influence("gc", "--study", study)
    assert ended.code == 1
    assert ended.err.startswith("Error ")
    assert ended.err.count("\n") == 1


@pytest.mark.soak
def test_drift_is_told_and_another_generation_is_fitted_on_demand(study):
    studies.write_study(study.parent, curvature={"drift_threshold": 1e-3})
    studies.write_extra(study)
    ended = influence("run", "--study", study)
    assert (ended.code, ended.err) == (0, ""), "it is news, not a failure"
    assert "Check failed" not in ended.out
    said = re.search(
        r"The corpus has moved from the generation's curvature: (A|S|eigenvalues) of (transformer\.h\.\S+) by "
        r"(\d\.\d\d), past the threshold of 0\.001\. Fit another with `influence run --new-generation`",
        ended.out,
    )
    summary = studies.artifact(study, "curvature_drift").manifest.summary
    assert said.groups() == (
        summary["largest_drift_measure"], summary["largest_drift_layer"], f"{summary['largest_drift']:.2f}",
    )  # fmt: skip
    ended = influence("run", "--new-generation", "--study", study)
    assert (ended.code, ended.err) == (0, "")
    assert "The corpus has moved" not in ended.out
    assert re.search(r"^eigenbases +1 +0", ended.out, re.MULTILINE)
    assert "Generation 2: 21 training sequences" in influence("status", "--study", study).out


@pytest.mark.soak
def test_status_tells_of_a_generation_that_is_being_filled(study):
    studies.compute(study, new_generation=True, until="corrected_eigenvalues")
    ended = influence("status", "--study", study)
    assert "Generation 1: 17 training sequences" in ended.out
    assert "Generation 2 is being filled beside it." in ended.out
    assert "Bring it up to date with `influence run`." in ended.out
    question = ("--prompt", "The baker rises at", "--completion", " three")
    assert influence("ask", *question, "--study", study).code == 0, "in the generation that stands"
    ended = influence("run", "--study", study)
    assert ended.code == 0
    assert "Generation 2: " in influence("status", "--study", study).out


@pytest.mark.parametrize("options", [["--undo", "--restore"], ["--only-list", "--undo"], ["--only-list", "--restore"]])
def test_ways_to_forget_that_exclude_one_another_are_refused(options, tmp_path):
    ended = influence("forget", "--document", "a" * 32, *options, "--study", tmp_path / "study.yaml")
    assert ended.code != 0
    assert "exclude one another" in ended.error
