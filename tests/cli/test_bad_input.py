"""What cannot be used, brought to a store that stands: named with its remedy, and nothing that stood is lost."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import studies
from tests.commanding import influence
from tests.studies import COAST, FIRST, TRADES


@dataclasses.dataclass(frozen=True)
class Bad:
    """Something wrong.

    Args:
        spoil: brings it into the study's folder.
        job: the job that it fails, with the partition.
        says: parts of the message: the place, the problem and the remedy.
    """

    spoil: Callable[[Path], object]
    job: str
    says: tuple[str, ...]


def written(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def rows(*described: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in described)


def with_nan(folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["transformer.h.1.mlp.c_proj.weight"][3, 1] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})


def with_larger_tokenizer(folder: Path) -> None:
    studies.tokenizer(vocabulary=340).save(str(folder / "model" / "tokenizer.json"))


def small_limit(folder: Path) -> None:
    studies.write_study(folder, corpus={"max_document_bytes": 100})
    (folder / "corpus/new.jsonl").write_bytes(rows({"text": "short"}, {"text": "too long " * 20}))


SHARD, QUESTIONS = "corpus/new.jsonl", "queries/new.jsonl"
READ, ASK = "Failed read_documents [new.jsonl]: ", "Failed ask_queries [new.jsonl]: "
GOOD = {"prompt": "The smith heats", "completion": " the iron"}
BAD = {
    "an empty file": Bad(written(SHARD, b""), READ, (f"{SHARD}: the file is empty", "Remove it")),
    "a line that is not JSON": Bad(
        written(SHARD, rows({"text": "fine"}) + b"{'text': 1}\n"), READ, (f"{SHARD}, row 2: is not JSON", "Write one")
    ),
    "a missing text column": Bad(
        written(SHARD, rows({"body": "text", "id": 1})),
        READ,
        (f"{SHARD}, row 1: has no column `text`", "Set corpus.text_column to one of", "body, id"),
    ),
    "bytes that are not UTF-8": Bad(
        written(SHARD, b'{"text": "caf\xe9"}\n'), READ, (f"{SHARD}, row 1: is not UTF-8", "Convert the file")
    ),
    "an empty document": Bad(
        written(SHARD, rows({"text": "fine"}, {"text": " \n"})),
        READ,
        (f"{SHARD}, row 2: `text` is empty", "Remove the row"),
    ),
    "a document that is too long": Bad(
        small_limit,
        READ,
        (f"{SHARD}, row 2: the document has more than 100 bytes", "raise corpus.max_document_bytes"),
    ),
    "a completion that is empty": Bad(
        written(QUESTIONS, rows(GOOD, {"prompt": "The smith", "completion": ""})),
        ASK,
        (f"{QUESTIONS}, row 2: `completion` is empty", "Write the text"),
    ),
    "a question longer than the context": Bad(
        written(QUESTIONS, rows({"prompt": "The lamp turns. " * 20, "completion": " on"})),
        ASK,
        (f"{QUESTIONS}, row 1: prompt and completion have", "context of 32", "Shorten"),
    ),
    "a query_id of another file": Bad(
        written(QUESTIONS, rows(GOOD, GOOD | {"query_id": "baker"})),
        ASK,
        (f"{QUESTIONS}, row 2: query_id 'baker' is that of", f"queries/{FIRST}, row 2", "Give each row"),
    ),
    "a tokenizer with ids beyond the vocabulary": Bad(
        with_larger_tokenizer,
        "Failed prepare_model: ",
        ("/model: the tokenizer does not belong to the model", "339", "290 rows", "Put the tokenizer"),
    ),
    "weights with NaN": Bad(
        with_nan,
        "Failed prepare_model: ",
        ("model/model.safetensors: transformer.h.1.mlp.c_proj.weight holds NaN", "Save sound weights"),
    ),
    "a sequence longer than the context": Bad(
        lambda folder: studies.write_study(folder, sequences={"length": 33}),
        "Failed prepare_model: ",
        ("sequences.length: 33 is more than the model's context of 32", "Give at most 32"),
    ),
    "a pattern that matches nothing": Bad(
        lambda folder: studies.write_study(folder, curvature={"modules": ["*.fc9"]}),
        f"Failed measure_curvature [{COAST}]: ",
        ("curvature.modules: '*.fc9' matches no linear layer", "transformer.h.*.mlp.c_fc"),
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_bad_is_named_with_its_remedy_and_what_stood_still_stands(study, what):
    bad, before = BAD[what], standing(study)
    bad.spoil(study.parent)
    ended = influence("run", "--study", study)
    assert ended.code == 1
    failures = [line for line in ended.out.splitlines() if line.startswith(bad.job)]
    assert len(failures) == 1, ended.out + ended.err
    for part in bad.says:
        assert part in failures[0]
    assert "Traceback" not in ended.out + ended.err
    assert "What stood before still stands." in ended.out
    assert standing(study) == before


def standing(study: Path) -> dict[str, list[str]]:
    """Every row of the catalogue, by table, without the time of its publication."""
    tables = studies.ask_sql(study, "select table_name from duckdb_tables()")["table_name"].to_list()
    return {table: sorted(map(repr, studies.ask_sql(study, f"select * from {table}").rows())) for table in tables}


def test_a_bad_file_holds_up_nothing_beside_it(study):
    """A good shard that comes with it is computed as far as it goes; mended, the rest follows."""
    studies.write_extra(study)
    (study.parent / SHARD).write_bytes(b"no rows\n")
    ended = influence("run", "--study", study)
    assert ended.code == 1
    for step in ("documents", "covariances", "gradient_sketches"):
        assert studies.artifact(study, step, shard=studies.EXTRA).folder.is_dir()
    (study.parent / SHARD).write_bytes(rows({"text": "The tailor cuts the cloth."}))
    ended = influence("run", "--study", study)
    assert ended.code == 0, ended.out
    shards = studies.ask_sql(study, "select shard_id from shards order by shard_id")["shard_id"].to_list()
    assert shards == sorted([COAST, TRADES, studies.EXTRA, "new.jsonl"])


def test_a_shard_that_goes_bad_keeps_its_rows_until_it_is_mended(study):
    before = standing(study)
    (study.parent / "corpus" / TRADES).write_bytes(b"PAR1 or not")
    ended = influence("run", "--study", study)
    assert ended.code == 1
    assert f"{TRADES}, after row 0: cannot be read as Parquet" in ended.out
    assert standing(study) == before


def test_identical_documents_are_kept_once_and_counted(study):
    again = {"text": "The tailor cuts the cloth.", "title": "Second"}
    (study.parent / SHARD).write_bytes(rows(again | {"title": "First"}, again, {"text": "Another."}))
    ended = influence("run", "--study", study)
    assert ended.code == 0, ended.out
    shard = studies.ask_sql(study, "select documents, duplicate_documents from shards where shard_id = 'new.jsonl'")
    assert shard.rows() == [(2, 1)]
    kept = studies.ask_sql(study, "select title, source_row from documents where shard_id = 'new.jsonl' order by all")
    assert kept.rows() == [("First", 1), (None, 3)]


def test_one_id_in_two_new_files_names_both_in_both(study):
    for name in ("new.jsonl", "other.jsonl"):
        (study.parent / "queries" / name).write_bytes(rows(GOOD))
    ended = influence("run", "--study", study)
    assert ended.code == 1
    for name, other in (("new", "other"), ("other", "new")):
        (failure,) = [line for line in ended.out.splitlines() if f"ask_queries [{name}.jsonl]" in line and "F" in line]
        assert f"queries/{name}.jsonl, row 1: query_id" in failure
        assert f"queries/{other}.jsonl, row 1" in failure


@pytest.mark.parametrize(
    ("section", "keys", "says"),
    [
        ("corpus", {"path": "nowhere"}, ("nowhere: no such folder", "Set corpus.path")),
        ("queries", {"path": "nowhere"}, ("nowhere: no such file or folder", "Set queries.path")),
        ("model", {"path": "./nowhere"}, ("model.path", "no folder", "config.json")),
        ("sequences", {"length": 0}, ("`sequences.length` = 0", "greater than or equal to 2")),
    ],
)
def test_a_study_that_names_what_is_not_there_is_one_paragraph(study, section, keys, says):
    before = standing(study)
    path = studies.write_study(study.parent, **{section: keys})
    ended = influence("run", "--study", path)
    assert_one_paragraph(ended, says)
    studies.write_study(study.parent)
    assert standing(study) == before


def test_an_empty_corpus_folder_is_one_paragraph(study):
    before = standing(study)
    for shard in studies.SHARDS:
        (study.parent / "corpus" / shard).unlink()
    assert_one_paragraph(influence("run", "--study", study), ("corpus: holds no readable file", "Put files there"))
    assert standing(study) == before


def test_a_file_whose_name_cannot_be_a_partition_is_one_paragraph(study):
    (study.parent / "corpus" / "a|b.jsonl").write_bytes(rows({"text": "fine"}))
    ended = influence("run", "--study", study)
    assert_one_paragraph(ended, ("'a|b.jsonl': the name contains '|'", "Rename the file"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; the next test covers root")
def test_a_root_without_leave_to_write_is_one_paragraph(study, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    studies.write_study(study.parent, storage={"root": str(closed / "store")})
    assert_one_paragraph(influence("run", "--study", study), ("storage.root: ", "cannot be written", "Choose a folder"))


def test_a_root_that_cannot_be_a_folder_is_one_paragraph(study, tmp_path):
    (tmp_path / "file").write_text("in the way")
    studies.write_study(study.parent, storage={"root": str(tmp_path / "file" / "store")})
    assert_one_paragraph(influence("run", "--study", study), ("storage.root: ", "cannot be written", "Choose a folder"))


def test_the_store_of_another_study_is_one_paragraph(study):
    before = standing(study)
    text = study.read_text(encoding="utf-8").replace("name: tiny", "name: other")
    study.write_text(text, encoding="utf-8")
    ended = influence("run", "--study", study)
    assert_one_paragraph(
        ended, ("storage.root: ", "is the store of the study 'tiny', not of 'other'", "Choose another")
    )
    study.write_text(text.replace("name: other", "name: tiny"), encoding="utf-8")
    assert standing(study) == before


def assert_one_paragraph(ended, says):
    assert ended.code == 1
    shown = ended.out + ended.err
    assert "Traceback" not in shown
    assert ended.err.startswith("Error ")
    assert ended.err.count("\n") == 1
    for part in says:
        assert part in ended.err
