"""What cannot be used, brought to a store that stands: named with its remedy, and nothing that stood is lost."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import studies
from tests.commanding import Finished, influence
from tests.studies import COAST, EXTRA, FIRST, TRADES
from tests.tiers import slow_but


def rows(*described: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in described)


GOOD = {"prompt": "The smith heats", "completion": " the iron"}
TWIN = {"prompt": "The weaver ties", "completion": " a thread"}
LONGEST_DOCUMENT = 100
BAD_SHARDS = {
    "no_json.jsonl": (rows({"text": "fine"}) + b"{'text': 1}\n", ", row 2", "is not JSON", "Write one JSON object"),
    "no_text.jsonl": (rows({"body": "b"}), ", row 1", "has no column `text`", "Set corpus.text_column to one of"),
    "latin.jsonl": (b'{"text": "caf\xe9"}\n', ", row 1", "is not UTF-8", "Convert the file to UTF-8"),
    "latin.txt": (b"caf\xe9", ", row 1", "is not UTF-8", "Convert the file to UTF-8"),
    "blank.jsonl": (rows({"text": "fine"}, {"text": " \n"}), ", row 2", "`text` is empty", "Remove the row"),
    "long.jsonl": (
        rows({"text": "short"}, {"text": "too long " * 20}),
        ", row 2",
        f"the document has more than {LONGEST_DOCUMENT} bytes",
        "raise corpus.max_document_bytes",
    ),
    "cut.jsonl.gz": (b"\x1f\x8b\x08\x00", "", "the compressed file is cut short", "download it again"),
    "no.parquet": (b"PAR1 or not", ", after row 0", "cannot be read as Parquet", "Write the file again"),
}
BAD_QUERIES = {
    "empty.jsonl": (b"", "", "the file is empty", "write a row with prompt and completion"),
    "blank.jsonl": (rows(GOOD, GOOD | {"completion": ""}), ", row 2", "`completion` is empty", "Write the text"),
    "long.jsonl": (
        rows({"prompt": "The lamp turns. " * 20, "completion": " on"}),
        ", row 1",
        "more than the model's context of 32",
        "Shorten the prompt",
    ),
    "stolen.jsonl": (
        rows(GOOD | {"query_id": "new"}, GOOD | {"query_id": "baker"}),
        ", row 2",
        f"queries/{FIRST}, row 2, too",
        "Give each row a query_id of its own",
    ),
    "twin_a.jsonl": (rows(TWIN), ", row 1", "queries/twin_b.jsonl, row 1, too", "each question once"),
    "twin_b.jsonl": (rows(TWIN), ", row 1", "queries/twin_a.jsonl, row 1, too", "each question once"),
}


def standing(study: Path) -> dict[str, list[str]]:
    """Every row of the catalogue, by table, as it stands; not how far the study is from it."""
    return {table: rows for table, rows in studies.catalogue_rows(study).items() if table != "partition_states"}


@pytest.fixture(scope="module")
def spoilt(first_run, tmp_path_factory):
    """A study whose folders got all of it at once beside a good file, and the run that found it there."""
    study = studies.copied(first_run[0], tmp_path_factory.mktemp("spoilt"))
    for folder, files in (("corpus", BAD_SHARDS), ("queries", BAD_QUERIES)):
        for name, (content, *_) in files.items():
            (study.parent / folder / name).write_bytes(content)
    studies.write_study(study.parent, corpus={"max_document_bytes": LONGEST_DOCUMENT})
    studies.write_extra(study)
    return study, influence("run", "--study", study)


def failure(ended: Finished, partition: str) -> str:
    """The one line that says that a partition failed."""
    (line,) = [line for line in ended.out.splitlines() if line.startswith(f"Failed {partition}: ")]
    return line


@pytest.mark.parametrize("name", BAD_SHARDS)
def test_a_bad_shard_is_named_with_its_row_and_remedy(spoilt, name):
    study, ended = spoilt
    _, row, problem, remedy = BAD_SHARDS[name]
    line = failure(ended, f"documents [{name}]")
    assert f": {study.parent}/corpus/{name}{row}: " in line
    assert problem in line
    assert remedy in line.partition(problem)[2]


@pytest.mark.parametrize("name", BAD_QUERIES)
def test_a_bad_query_file_is_named_with_its_row_and_remedy(spoilt, name):
    study, ended = spoilt
    _, row, problem, remedy = BAD_QUERIES[name]
    line = failure(ended, f"query_gradients [{name}]")
    assert f": {study.parent}/queries/{name}{row}: " in line
    assert problem in line
    assert remedy in line.partition(problem)[2]


def test_what_stood_before_bad_files_came_still_stands(first_run, spoilt):
    study, ended = spoilt
    assert ended.code == 1
    assert ended.out.count("Failed ") == len(BAD_SHARDS) + len(BAD_QUERIES)
    assert "Traceback" not in ended.out + ended.err
    assert "Earlier results are unchanged." in ended.out
    assert standing(study) == standing(first_run[0])


def test_what_is_not_as_it_should_be_can_be_asked_for(spoilt):
    """Readers of the tables, too, can see that they are not up to date, and for what."""
    study, _ = spoilt
    outdated = studies.ask_sql(study, "select asset, partition, state from outdated_partitions")
    files = {"documents": BAD_SHARDS, "query_gradients": BAD_QUERIES}
    for asset, names in files.items():
        found = outdated.filter(asset=asset)
        assert set(found["partition"]) == set(names)
        assert set(found["state"]) == {"missing"}
    assert outdated.filter(asset="influence_catalogue")["state"].to_list() == ["waiting"]


def test_bad_files_hold_up_nothing_beside_them(spoilt):
    """A good shard that came with them is computed as far as it goes: to its scores for the good questions."""
    study, ended = spoilt
    table = re.findall(r"^(\w+) +(\d+) +(\d+)", ended.out, re.MULTILINE)
    computed_and_stood = {name: (int(computed), int(stood)) for name, computed, stood in table}
    assert computed_and_stood["documents"] == (1, 2)
    assert computed_and_stood["language_model"] == (0, 1)
    assert computed_and_stood["eigenbases"] == (0, 1)
    assert computed_and_stood["influence_scores"] == (2, 4)
    for step in ("documents", "token_sequences", "drift_statistics", "gradient_sketches"):
        assert studies.artifact(study, step, shard=EXTRA).folder.is_dir()
    assert studies.artifact(study, "influence_scores", shard=EXTRA, query_set=FIRST).folder.is_dir()


@pytest.mark.slow
def test_mended_files_are_taken_and_identical_documents_kept_once_and_counted(spoilt, tmp_path):
    study = studies.copied(spoilt[0], tmp_path)
    for folder, files in (("corpus", BAD_SHARDS), ("queries", BAD_QUERIES)):
        for name in files:
            (study.parent / folder / name).unlink()
    (study.parent / "corpus" / EXTRA).unlink()
    again = {"text": "The tailor cuts the cloth.", "title": "Second"}
    documents = rows(again | {"title": "First"}, again, {"text": "Another."})
    (study.parent / "corpus" / "no_json.jsonl").write_bytes(documents)
    ended = influence("run", "--study", study)
    assert ended.code == 0, ended.out
    found = studies.ask_sql(study, "select shard_id, documents, duplicate_documents from shards order by shard_id")
    assert found.rows() == [(COAST, 4, 0), ("no_json.jsonl", 2, 1), (TRADES, 3, 0)]
    kept = studies.ask_sql(study, "select title, source_row from documents where shard_id = 'no_json.jsonl'")
    assert sorted(kept.rows(), key=lambda row: row[1]) == [("First", 1), (None, 3)]


def with_nan(folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["transformer.h.1.mlp.c_proj.weight"][3, 1] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})


def with_larger_tokenizer(folder: Path) -> None:
    studies.tokenizer(vocabulary=340).save(str(folder / "model" / "tokenizer.json"))


SPOILT_MODELS = {
    "a tokenizer with ids beyond the vocabulary": (
        with_larger_tokenizer,
        "language_model",
        ("/model: the tokenizer does not belong to the model", "339", "290 rows", "Put the tokenizer"),
    ),
    "weights with NaN": (
        with_nan,
        "language_model",
        ("model/model.safetensors: transformer.h.1.mlp.c_proj.weight holds NaN", "Save sound weights"),
    ),
    "no weights": (
        lambda folder: (folder / "model" / "model.safetensors").unlink(),
        None,
        ("/model: holds no *.safetensors", "save_pretrained"),
    ),
    "a sequence longer than the context": (
        lambda folder: studies.write_study(folder, sequences={"length": 33}),
        "language_model",
        ("sequences.length: 33 is more than the model's context of 32", "Give at most 32"),
    ),
    "a pattern that matches nothing": (
        lambda folder: studies.write_study(folder, curvature={"modules": ["*.fc9"]}),
        "covariances",
        ("curvature.modules: '*.fc9' matches no linear layer", "transformer.h.*.mlp.c_fc"),
    ),
}


@pytest.mark.parametrize("what", slow_but("weights with NaN", of=SPOILT_MODELS))
def test_a_model_that_does_not_serve_is_named_and_what_stood_still_stands(study, what):
    spoil, partition, says = SPOILT_MODELS[what]
    before = standing(study)
    spoil(study.parent)
    ended = influence("run", "--study", study)
    if partition is None:
        assert_one_paragraph(ended, says)
    else:
        line = failure(ended, partition)
        assert [part in line for part in says] == [True] * len(says), line
    assert ended.code == 1
    assert "Traceback" not in ended.out + ended.err
    assert standing(study) == before


@pytest.mark.slow
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
    says = ("storage.root: ", "is the store of the study 'tiny', not of 'other'", "Choose another")
    assert_one_paragraph(ended, says)
    study.write_text(text.replace("name: other", "name: tiny"), encoding="utf-8")
    assert standing(study) == before


def assert_one_paragraph(ended: Finished, says: tuple[str, ...]) -> None:
    assert ended.code == 1
    assert "Traceback" not in ended.out + ended.err
    assert ended.err.startswith("Error ")
    assert ended.err.count("\n") == 1
    for part in says:
        assert part in ended.err
