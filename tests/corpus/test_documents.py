"""Documents of a shard: their identity, and each of them once."""

import hashlib
import json

import polars as pl
import pytest

from influence_assets.corpus import readers
from influence_assets.corpus.documents import DOCUMENT_SCHEMA, DocumentCounts, read_documents
from influence_assets.corpus.sources import SourceFile
from influence_assets.errors import InputError
from influence_assets.study import Corpus

TEXTS = ["one", "Größe 😀", "one", "two", "Größe 😀", "one "]


@pytest.fixture
def source(tmp_path):
    content = "".join(json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(TEXTS))
    (tmp_path / "a.jsonl").write_text(content)
    return SourceFile("folder/a.jsonl", str(tmp_path / "a.jsonl"), len(content))


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_identical_documents_are_kept_once_and_counted(source, monkeypatch, batch_rows):
    monkeypatch.setattr(readers, "_BATCH_ROWS", batch_rows)
    stream = read_documents(source, Corpus(path="unused", id_column="n"))
    with pytest.raises(RuntimeError, match="iterate"):
        _ = stream.counts
    documents = pl.concat(stream)
    assert documents.schema == DOCUMENT_SCHEMA
    assert documents["text"].to_list() == ["one", "Größe 😀", "two", "one "]
    assert documents["source_row"].to_list() == [1, 2, 4, 6]
    assert documents["external_id"].to_list() == ["0", "1", "3", "5"]
    assert documents["characters"].to_list() == [3, 7, 3, 4]
    assert documents["shard_id"].unique().to_list() == ["folder/a.jsonl"]
    assert documents["document_id"][1] == hashlib.sha256("Größe 😀".encode()).hexdigest()[:32]
    assert stream.counts == DocumentCounts(documents=4, duplicate_documents=2, characters=17)
    assert pl.concat(stream).equals(documents), "a second iteration reads the same"


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(InputError, match="is empty"):
        list(read_documents(SourceFile("a.jsonl", str(tmp_path / "a.jsonl"), 0), Corpus(path="unused")))
