"""Rows that cannot be used: all of them are named, or left out and listed."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_corpora import lines, shards_of

from influence_assets.corpus.bad_rows import ROWS_NAMED
from influence_assets.corpus.documents import read_documents
from influence_assets.errors import InputError
from influence_assets.study import Corpus

BAD = {
    b'{"text": "a"': "is not JSON",
    b"[1]": "is JSON, but not an object",
    b'{"body": "a"}': "has no column `text`",
    b'{"text": 5}': "`text` is a number, not a string",
    b'{"text": null}': "`text` is null, not a string",
    b'{"text": "  "}': "`text` is empty or only white space",
    b'{"text": "\xff"}': "is not UTF-8",
    b'{"text": "\\ud83d"}': "holds half of a surrogate pair",
    b'{"text": "far too long for this corpus, which takes 30 bytes"}': "the document has more than 30 bytes",
    b'{"text": [{"role": "user", "content": "Hello"}]}': "has messages, but the file's first row has text",
    b'{"prompt": "a", "completion": "b"}': "has prompt and completion, but the file's first row has text",
}
"""A line, and what is wrong with it in a file of texts."""
LIMITS = {"max_document_bytes": 30, "shard_bytes": 120}


def documents_of(folder, **corpus):
    """The texts and the skipped rows of all shards, or the errors."""
    corpus = Corpus(path=str(folder), **LIMITS, **corpus)
    texts, skipped, errors = [], [], []
    for shard in shards_of(corpus):
        stream = read_documents(shard, corpus)
        try:
            texts += [text for frame in stream for text in frame["text"]]
        except InputError as error:
            errors.append(error)
        else:
            skipped += stream.skipped.rows()
            assert stream.counts.skipped_rows == stream.skipped.height
    return texts, skipped, errors


def is_named(number, problem, error):
    return f"row {number}: {problem}" in str(error)


@given(st.data())
def test_all_are_named_or_left_out_wherever_they_lie(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("corpus")
    rows = data.draw(st.lists(st.sampled_from([None, b"", *BAD]), max_size=40))
    rows = [None, *rows]  # what the form of the others is compared with
    content = [
        json.dumps({"text": f"Text {number}."}).encode() if row is None else row for number, row in enumerate(rows)
    ]
    (folder / "a.jsonl").write_bytes(b"".join(line + b"\n" for line in content))
    bad = {number: BAD[row] for number, row in enumerate(rows, 1) if row}

    _, _, errors = documents_of(folder)
    assert bool(errors) == bool(bad)
    for number, problem in bad.items():
        assert any(is_named(number, problem, error) for error in errors), (number, problem)
    assert all("corpus.on_bad_row" in error.remedy for error in errors)

    texts, skipped, errors = documents_of(folder, on_bad_row="skip")
    assert errors == []  # the file has a good row, whichever slice it is in
    assert texts == [f"Text {number}." for number, row in enumerate(rows) if row is None]
    assert [(shard[:7], number) for shard, number, _ in skipped] == [("a.jsonl", number) for number in bad]
    assert all(found.startswith(bad[number]) for _, number, found in skipped)


def test_an_error_names_so_many_and_counts_the_rest(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines({"text": "good"}) + b"no\n" * (ROWS_NAMED + 1_005))
    corpus = Corpus(path=str(tmp_path))
    with pytest.raises(InputError) as refused:
        list(read_documents(*shards_of(corpus), corpus))
    assert refused.value.where == str(tmp_path / "a.jsonl")
    assert refused.value.problem.startswith("1,025 rows cannot be used (row 2: is not JSON")
    assert refused.value.problem.endswith("; and 1,005 more)")
    assert len(str(refused.value)) < 100 * ROWS_NAMED


def test_rows_of_parquet_are_left_out_too(tmp_path):
    frame = pl.DataFrame({"text": ["one", None, " ", "two"], "n": [1, 2, 3, 4]})
    frame.write_parquet(tmp_path / "a.parquet")
    texts, skipped, errors = documents_of(tmp_path, on_bad_row="skip")
    assert (texts, errors) == (["one", "two"], [])
    assert skipped == [
        ("a.parquet", 2, "`text` is null, not a string"),
        ("a.parquet", 3, "`text` is empty or only white space"),
    ]


def test_files_of_one_row_are_left_out_one_by_one(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "white.md").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe")
    texts, skipped, errors = documents_of(tmp_path, on_bad_row="skip")
    assert (texts, errors) == (["good"], [])
    assert [(name, number) for name, number, _ in skipped] == [("latin.txt", 1), ("white.md", 1)]


def test_a_file_of_nothing_but_bad_rows_is_an_error_all_the_same(tmp_path):
    """It is not the rows that are wrong then, but the name of the column."""
    (tmp_path / "a.jsonl").write_bytes(lines({"body": "one"}, {"body": "two"}))
    _, _, (error,) = documents_of(tmp_path, on_bad_row="skip")
    assert error.problem.startswith("none of its 2 rows can be used (row 1: has no column `text`; row 2:")
    assert error.remedy == "Set corpus.text_column to one of its columns: body."


def test_a_damaged_file_is_not_taken_for_bad_rows(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(b"\x1f\x8b\x08 and no more of it")
    _, _, errors = documents_of(tmp_path, on_bad_row="skip")
    assert len(errors) == 1


def test_the_first_good_row_decides_on_the_form(tmp_path):
    """Of later slices, too."""
    chats = [{"messages": [{"role": "user", "content": f"Hello, {n}"}]} for n in range(6)]
    (tmp_path / "a.jsonl").write_bytes(b'{"text": ""}\n' + lines(*chats, {"text": "good"}))
    texts, skipped, errors = documents_of(tmp_path, on_bad_row="skip")
    assert (len(texts), errors) == (6, [])
    assert [number for _, number, _ in skipped] == [1, 8]
