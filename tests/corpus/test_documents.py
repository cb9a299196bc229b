"""Documents of a shard: their identity, each of them once, and none that is withdrawn."""

import hashlib
import json

import polars as pl
import pytest
from small_corpora import shards_of

from influence_assets.corpus import readers
from influence_assets.corpus.documents import DOCUMENT_SCHEMA, DocumentCounts, document_ids, read_documents
from influence_assets.study import Corpus

TEXTS = ["one", "Größe 😀", "one", "two", "Größe 😀", "one "]
IDS = [hashlib.sha256(text.encode()).hexdigest()[:32] for text in TEXTS]


@pytest.fixture
def corpus(tmp_path):
    content = "".join(json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(TEXTS))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.jsonl").write_text(content)
    return Corpus(path=str(tmp_path), id_column="n")


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_identical_documents_are_kept_once_and_counted(corpus, monkeypatch, batch_rows):
    monkeypatch.setattr(readers, "_BATCH_ROWS", batch_rows)
    stream = read_documents(*shards_of(corpus), corpus)
    with pytest.raises(RuntimeError, match="iterate"):
        _ = stream.counts
    documents = pl.concat(stream)
    assert documents.schema == DOCUMENT_SCHEMA
    assert documents["text"].to_list() == ["one", "Größe 😀", "two", "one "]
    assert documents["source_row"].to_list() == [1, 2, 4, 6]
    assert documents["external_id"].to_list() == ["0", "1", "3", "5"]
    assert documents["characters"].to_list() == [3, 7, 3, 4]
    assert documents["shard_id"].unique().to_list() == ["folder/a.jsonl"]
    assert documents["document_id"][1] == IDS[1]
    expected = DocumentCounts(documents=4, duplicate_documents=2, withdrawn_documents=0, characters=17)
    assert stream.counts == expected
    assert pl.concat(stream).equals(documents), "a second iteration reads the same"


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
@pytest.mark.parametrize("collection", [list, set, tuple, frozenset])
def test_withdrawn_documents_are_left_out_and_counted(corpus, monkeypatch, batch_rows, collection):
    monkeypatch.setattr(readers, "_BATCH_ROWS", batch_rows)
    stream = read_documents(*shards_of(corpus), corpus, collection([IDS[1], IDS[3], "0" * 32]))
    assert pl.concat(stream)["source_row"].to_list() == [1, 6]
    expected = DocumentCounts(documents=2, duplicate_documents=1, withdrawn_documents=3, characters=7)
    assert stream.counts == expected


def test_a_shard_of_which_everything_is_withdrawn_has_no_documents(corpus):
    stream = read_documents(*shards_of(corpus), corpus, IDS)
    assert list(stream) == []
    assert stream.counts == DocumentCounts(0, 0, 6, 0)


def test_the_ids_of_a_shard_are_those_of_its_texts(corpus):
    assert document_ids(*shards_of(corpus), corpus) == set(IDS)
    cut = corpus.model_copy(update={"shard_bytes": 60})
    parts = [document_ids(shard, cut) for shard in shards_of(cut)]
    assert len(parts) > 1
    assert set.union(*map(set, parts)) == set(IDS)


def test_an_empty_file_has_no_documents(tmp_path):
    (tmp_path / "a.jsonl").touch()
    corpus = Corpus(path=str(tmp_path))
    stream = read_documents(*shards_of(corpus), corpus)
    assert list(stream) == []
    assert stream.counts == DocumentCounts(0, 0, 0, 0)
