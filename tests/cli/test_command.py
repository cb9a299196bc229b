"""The command from `init` to `rebuild-catalogue`, as a person types it."""

import csv
import io
import json
import re
import shlex

import polars as pl
import pytest

from influence_assets.assets import asset_graph
from tests import studies
from tests.commanding import finished, influence, influence_process
from tests.studies import COAST, FIRST, SHARDS, TRADES


def process(*arguments, folder):
    ended = finished(influence_process(*arguments, folder=folder))
    return ended.code, ended.out, ended.err


@pytest.mark.soak
def test_the_example_of_init_runs_as_it_is(tmp_path):
    """In processes of their own, from the folder that init writes, where `--study` need not be said."""
    code, out, _ = process("init", "new", folder=tmp_path)
    assert code == 0
    assert "influence run --study" in out
    folder = tmp_path / "new"
    code, out, err = process("run", folder=folder)
    assert (code, err) == (0, "")
    due = sum(not asset.on_request for asset in asset_graph())
    assert f"Computed {due} partitions" in out
    code, out, err = process("run", folder=folder)
    assert (code, err) == (0, "")
    assert out.strip() == f"Nothing to do: all {due} partitions are up to date."
    question = ("--prompt", "The lamp turns once in", "--completion", " ten seconds", "--top", "1")
    ended = influence("ask", *question, "--study", folder / "study.yaml")
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"1\. \+[\d.]+ nats !? ?· .*Lighthouse \(example\)", ended.out)
    assert "example.jsonl · sequence " in ended.out
    code, _, err = process("sql", "selec 1", folder=folder)
    assert code == 1
    assert err.startswith("Error SQL: ")
    assert "Traceback" not in err


def test_init_writes_over_nothing(tmp_path):
    (tmp_path / "mine.txt").write_text("here first")
    ended = influence("init", tmp_path)
    assert ended.code == 1
    assert "is not empty. Name a new folder." in ended.error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "file").write_text("in the way")
    ended = influence("init", tmp_path / "file" / "below")
    assert (ended.code, ended.err.count("\n")) == (1, 1)


def test_help_names_every_command():
    ended = influence("--help")
    assert ended.code == 0
    for command in (
        "init", "run", "status", "plan", "ask", "sql", "cookbook", "forget", "verify", "gc", "rebuild-catalogue", "ui",
        "demo",
    ):  # fmt: skip
        assert command in ended.out


def test_the_first_run_says_what_it_did(first_run):
    _, ended = first_run
    assert "documents [letters/coast.jsonl]\n" in ended.out
    assert "gradient_sketches [trades.parquet]\n" in ended.out, "its scores come of the same pass"
    done = dict(re.findall(r"^(\w+) +(\d+) +0", ended.out, re.MULTILINE))
    counted = {name.partition("[")[0] for name in studies.everything()}
    assert done.keys() == counted
    assert done["influence_scores"] == "4"
    assert done["documents"] == "2"
    assert f"Computed {len(studies.everything())} partitions" in ended.out
    assert ended.err == ""


def test_the_second_run_has_nothing_to_do(first_run):
    study, _ = first_run
    ended = influence("run", "--study", study)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.strip() == f"Nothing to do: all {len(studies.everything())} partitions are up to date."


def test_status_of_a_study_that_stands(first_run):
    ended = influence("status", "--study", first_run[0])
    assert ended.code == 0
    for shard, figures in {COAST: "4 +10 +149", TRADES: "3 +7 +106"}.items():
        assert re.search(rf"^{re.escape(shard)} +{figures}", ended.out, re.MULTILINE)
    assert re.search(r"^influence_scores +4 +0 +0 +0", ended.out, re.MULTILINE)
    assert "Generation 1: 17 training sequences" in ended.out
    assert "Everything is up to date." in ended.out


def test_status_tells_missing_from_stale(study):
    studies.write_extra(study)
    studies.write_parquet(study.parent / "corpus" / TRADES, studies.TRADES_ROWS[:1])
    ended = influence("status", "--study", study)
    assert ended.code == 0
    assert re.search(r"^documents +1 +1 +1 +0 +ferry\.txt\.gz, trades\.parquet", ended.out, re.MULTILINE)
    assert re.search(r"^language_model +1 +0 +0 +0", ended.out, re.MULTILINE)
    assert re.search(r"^influence_scores +2 +0 +0 +4 +first\.jsonl\|ferry", ended.out, re.MULTILINE)
    assert re.search(r"^documents\[ferry\.txt\.gz\] +was never computed", ended.out, re.MULTILINE)
    assert re.search(r"^ferry\.txt\.gz +– +– +–", ended.out, re.MULTILINE)
    assert "Bring it up to date with `influence run`." in ended.out


def test_before_the_first_run_every_command_says_what_to_do(tmp_path):
    study = studies.lay_out(tmp_path)
    ended = influence("status", "--study", study)
    assert ended.code == 0
    assert "No generation of curvature yet." in ended.out
    for arguments in (
        ("ask", "--prompt", "a", "--completion", "b"),
        ("sql", "select 1"),
        ("rebuild-catalogue",),
    ):
        ended = influence(*arguments, "--study", study)
        assert (ended.code, ended.out) == (1, ""), arguments
        assert "`influence run`" in ended.err
        assert ended.err.count("\n") == 1


def test_ask_shows_passages_with_their_documents(first_run):
    study, _ = first_run
    ended = influence("ask", "--prompt", "The baker rises at", "--completion", " three", "--top", "3", "--study", study)
    assert ended.code == 0
    titles = re.findall(r"(\d)\. ([+-][\d.e-]+) nats !? ?· (.*?) ─", ended.out)
    assert [rank for rank, _, _ in titles] == ["1", "2", "3"]
    scores = [float(score) for _, score, _ in titles]
    assert scores == sorted(scores, reverse=True)
    known = {row["title"] for row in studies.COAST_ROWS + studies.TRADES_ROWS}
    assert all(named.split(" (")[0].split(" + ")[0].split(" +")[0].split(" -")[0] in known for _, _, named in titles)
    asked = studies.ask_sql(study, "select * from queries where query_id = 'baker'").row(0, named=True)
    assert f"log-probability {asked['log_probability_nats']:.2f} nats over {asked['completion_tokens']}" in ended.out
    assert "17 training sequences searched" in ended.out


@pytest.mark.parametrize(
    ("prompt", "completion", "says"),
    [("The baker", "", "the completion has no tokens"), ("The lamp. " * 30, " on", "more than the model's context")],
)
def test_a_question_that_cannot_be_asked_is_one_paragraph(first_run, prompt, completion, says):
    ended = influence("ask", "--prompt", prompt, "--completion", completion, "--study", first_run[0])
    assert ended.code == 1
    assert ended.err.startswith("Error the question: ")
    assert says in ended.err
    assert ended.err.count("\n") == 1


SHARDS_SQL = "select shard_id, documents from shards order by shard_id"


def test_sql_prints_a_table_csv_and_json(first_run):
    study, _ = first_run
    table = influence("sql", SHARDS_SQL, "--study", study)
    assert table.code == 0
    lines = [line.split() for line in table.out.splitlines()]
    assert lines == [["shard_id", "documents"], [COAST, "4"], [TRADES, "3"], ["2", "rows"]]
    text = influence("sql", SHARDS_SQL, "--format", "csv", "--study", study)
    assert list(csv.reader(io.StringIO(text.out))) == [["shard_id", "documents"], [COAST, "4"], [TRADES, "3"]]
    text = influence("sql", SHARDS_SQL, "--format", "json", "--study", study)
    expected = [{"shard_id": COAST, "documents": 4}, {"shard_id": TRADES, "documents": 3}]
    assert json.loads(text.out) == expected


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_sql_writes_files_of_the_kind_that_their_name_says(first_run, tmp_path, kind):
    path = tmp_path / f"rows.{kind}"
    sql = "select documents, influence_nats from strongest('lamp', 2)"  # a list, which CSV has as JSON text
    ended = influence("sql", sql, "--output", path, "--study", first_run[0])
    assert (ended.code, ended.err) == (0, "")
    assert "Wrote 2 rows to" in ended.out
    rows = {"csv": pl.read_csv, "json": pl.read_json, "parquet": pl.read_parquet}[kind](path)
    expected = studies.ask_sql(first_run[0], sql)
    assert rows["influence_nats"].to_list() == expected["influence_nats"].to_list()
    documents = rows["documents"].to_list()
    assert [json.loads(d) if kind == "csv" else d for d in documents] == expected["documents"].to_list()


@pytest.mark.parametrize("arguments", [["--format", "parquet"], ["--output", "rows.xlsx"], ["--output", "no/rows.csv"]])
def test_sql_says_what_it_cannot_write(first_run, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    ended = influence("sql", "select 1", *arguments, "--study", first_run[0])
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert ended.err.startswith("Error --output: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "statement",
    [
        "copy (select 1) to '{folder}/out.csv'",
        "export database '{folder}/out'",
        "attach '{folder}/out.db'",
        "create table mine as select 1",
        "delete from influence_scores",
        "update shards set documents = 0",
        "drop view top_influences",
        "insert into catalogue select * from catalogue",
        "select * from read_csv('{folder}/secret.txt')",
        "select * from '{folder}/secret.txt'",
        "select * from read_text('{folder}/secret.txt')",
        "select * from glob('{folder}/*')",
        "set enable_external_access = true",
        "install httpfs",
        "load httpfs",
        "select getenv('HOME')",
        "select interval 1 month",
        "no sql at all",
    ],
)
def test_sql_can_neither_write_nor_read_other_files(first_run, tmp_path, statement):
    study, _ = first_run
    (tmp_path / "secret.txt").write_text("hidden\n")
    catalogue = studies.versions_of(study).workspace.catalogue
    before = catalogue.read_bytes()
    ended = influence("sql", statement.format(folder=tmp_path), "--study", study)
    assert ended.code == 1
    assert ended.err.startswith("Error SQL: ")
    assert "it can only be read" in ended.err
    assert "hidden" not in ended.out + ended.err
    assert "Traceback" not in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["secret.txt"]
    assert catalogue.read_bytes() == before


def test_a_rebuilt_catalogue_holds_the_same(study):
    scores = studies.scores(study)
    studies.versions_of(study).workspace.catalogue.write_bytes(b"no database")
    assert influence("sql", "select 1", "--study", study).code == 1
    ended = influence("rebuild-catalogue", "--study", study)
    assert (ended.code, ended.err) == (0, "")
    assert re.match(r"Rebuilt from \d+ artifacts in [\d.]+ s: [\d,]+ rows\.", ended.out)
    assert studies.scores(study) == scores
    assert influence("run", "--study", study).out.startswith("Nothing to do")


def test_a_missing_study_is_one_paragraph(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (["run"], ["status"], ["sql", "select 1"], ["rebuild-catalogue"], ["ui"]):
        ended = influence(*command)
        assert ended.code == 1, command
        assert ended.error.startswith("Error ")
        assert "study.yaml: no such study. Write one with `influence init DIR`." in ended.error
        assert ended.err.count("\n") == 1


HOSTILE = "\x1b[31mred\x1b]0;title\x07 [bold]loud[/bold] :warning: \u202eback"


def test_what_is_in_a_corpus_cannot_steer_the_terminal(tmp_path):
    """Escape codes are spelt out and markup is text, wherever corpus and questions are shown."""
    study = studies.lay_out(tmp_path)
    for shard in SHARDS:
        (tmp_path / "corpus" / shard).unlink()
    (tmp_path / "queries" / studies.SECOND).unlink()
    studies.write_jsonl(tmp_path / "corpus" / "a [red].jsonl", [{"text": HOSTILE, "title": HOSTILE, "source": HOSTILE}])
    studies.write_jsonl(
        tmp_path / "queries" / FIRST, [{"query_id": HOSTILE, "prompt": "\x1b[2Jloud", "completion": " red"}]
    )
    studies.compute(study)
    shown = [
        influence("ask", "--prompt", "\x1b[2Jloud", "--completion", " red", "--study", study, width=500),
        influence("sql", "select query_id, prompt, title, text from score_lineage "
                  "join top_influences using (query_id, sequence_id)", "--study", study, width=2000),
        influence("sql", f"select 1 as \"{HOSTILE}\"", "--study", study),
        influence("status", "--study", study),
        influence("sql", f"select {HOSTILE}", "--study", study),
    ]  # fmt: skip
    for ended in shown:
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", ended.out + ended.err)
    ask, rows, *_ = shown
    for ended in (ask, rows):
        assert ended.code == 0
        assert "\\x1b[31mred\\x1b]0;title\\x07 [bold]loud[/bold] :warning: \\u202eback" in ended.out
    assert "a [red].jsonl" in shown[3].out


@pytest.mark.parametrize("name", ["[bold]a", "a[", "[/b]", "a 'quoted' one", "with $HOME and `id`"])
def test_a_folder_of_any_name_is_shown_as_it_is_and_can_be_copied_into_a_shell(name, tmp_path):
    folder = tmp_path / name
    started = influence("init", folder, width=1000)
    assert started.code == 0
    assert str(folder / "study.yaml") in started.out
    command = started.out.partition("then: ")[2].strip()
    assert shlex.split(command) == ["influence", "run", "--study", str(folder / "study.yaml")]
    told = influence("status", "--study", folder / "study.yaml", width=1000)
    assert told.code == 0
    assert str(folder / "store") in told.out


def test_an_error_that_quotes_a_file_cannot_steer_the_terminal(study):
    (study.parent / "corpus" / "new.jsonl").write_text(json.dumps({HOSTILE: 1}) + "\n")
    ended = influence("run", "--study", study)
    assert ended.code == 1
    assert "\x1b" not in ended.out + ended.err
    assert "[bold]loud[/bold] :warning:" in ended.out
