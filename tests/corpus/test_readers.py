"""Rows of source files: what is kept, what is refused, and how much of it is read."""

import contextlib
import gzip
import io
import json
import random
from datetime import date, datetime
from decimal import Decimal

import fsspec
import polars as pl
import pytest
import zstandard
from small_corpora import PACKINGS, lines, shards_of

from influence_assets.corpus import measured_files, readers, slices
from influence_assets.corpus.formats import jsonl, text
from influence_assets.corpus.readers import ROW_SCHEMA, read_rows
from influence_assets.corpus.sources import SourceFile, list_source_files
from influence_assets.corpus.streams import decompressed
from influence_assets.errors import InputError
from influence_assets.study import Corpus


def stored(folder, name, content):
    place = folder / name
    place.write_bytes(content)
    return SourceFile(name, str(place), len(content))


def rows_of(source, **corpus):
    corpus = Corpus(path=source.url.removesuffix(f"/{source.name}"), **corpus)
    (shard,) = (shard for shard in shards_of(corpus) if shard.file == source)
    frames = list(read_rows(shard, corpus))
    assert all(frame.schema == ROW_SCHEMA for frame in frames)
    return pl.concat([pl.DataFrame(schema=ROW_SCHEMA), *frames]).rows(named=True)


@pytest.mark.parametrize("packing", PACKINGS)
def test_jsonl_rows_keep_their_text_and_line_numbers(tmp_path, packing):
    texts = ["  kept \r\n as it is\t", "日本 😀 \u0000", "x\u2028y"]
    content = b"\xef\xbb\xbf" + lines({"text": texts[0]}) + b"\n  \r\n" + lines(*({"text": text} for text in texts[1:]))
    rows = rows_of(stored(tmp_path, "a.jsonl" + packing, PACKINGS[packing](content)))
    assert [row["text"] for row in rows] == texts
    assert [row["source_row"] for row in rows] == [1, 4, 5]
    assert rows[0]["metadata"] is None


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("suffix", [".txt", ".md"])
def test_a_text_file_is_one_document(tmp_path, suffix, packing):
    text = "# Title\r\n\r\n\tGröße \ufeff😀\n"
    content = b"\xef\xbb\xbf" + text.encode()
    (row,) = rows_of(stored(tmp_path, "a" + suffix + packing, PACKINGS[packing](content)), id_column="key")
    assert row == dict.fromkeys(ROW_SCHEMA, None) | {"source_row": 1, "text": text}


def test_a_file_on_another_filesystem():
    fsspec.filesystem("memory").pipe("/read/a.jsonl.gz", gzip.compress(lines({"text": "one"}, {"text": "two"})))
    (source,) = list_source_files("memory:///read")
    rows = rows_of(source)
    assert [row["text"] for row in rows] == ["one", "two"]


def test_a_local_name_is_not_taken_for_a_url(tmp_path):
    assert rows_of(stored(tmp_path, "a::b #%20.txt", b"text"))[0]["text"] == "text"


def test_columns_are_promoted_or_become_metadata(tmp_path):
    content = lines(
        {"text": "a", "title": "T", "license": "MIT", "date": 2020, "author": ["A", "B"], "n": 1.5, "key": 7},
        {"key": None, "source": True, "licence": "CC0", "license": "x", "text": "b", "z": {"q": [None, "é"]}},
    )
    first, second = rows_of(stored(tmp_path, "a.jsonl", content), id_column="key")
    assert first == {
        "source_row": 1,
        "external_id": "7",
        "title": "T",
        "source": None,
        "licence": "MIT",
        "author": '["A", "B"]',
        "date": "2020",
        "url": None,
        "metadata": '{"n": 1.5}',
        "text": "a",
        "form": None,
    }
    assert (second["external_id"], second["source"], second["licence"]) == (None, "true", "CC0")
    assert json.loads(second["metadata"]) == {"license": "x", "z": {"q": [None, "é"]}}


def test_a_promoted_column_may_be_the_id_too(tmp_path):
    (row,) = rows_of(stored(tmp_path, "a.jsonl", lines({"body": "a", "url": "u"})), text_column="body", id_column="url")
    assert (row["external_id"], row["url"], row["metadata"]) == ("u", "u", None)


def test_metadata_is_json_even_where_the_row_is_not_quite(tmp_path):
    content = b'{"text": "a", "x": NaN, "y": [1e999, -Infinity], "z": "\\ud83d\\ude00"}'
    (row,) = rows_of(stored(tmp_path, "a.jsonl", content))
    assert json.loads(row["metadata"], parse_constant=pytest.fail) == {"x": None, "y": [None, None], "z": "😀"}


def test_parquet_rows(tmp_path):
    buffer = io.BytesIO()
    pl.DataFrame(
        {
            "text": [f"text {n}" for n in range(50)],
            "date": [date(2024, 1, 2)] * 50,
            "n": range(50),
            "when": [datetime(2024, 1, 2, 3, 4)] * 50,
            "raw": [b"\x01\xff"] * 50,
            "price": [Decimal("1.50")] * 50,
            "nan": [float("nan")] * 50,
            "tags": [["a", None]] * 50,
        }
    ).write_parquet(buffer, row_group_size=7)
    rows = rows_of(stored(tmp_path, "a.parquet", buffer.getvalue()), id_column="n")
    assert [row["text"] for row in rows] == [f"text {n}" for n in range(50)]
    assert [row["source_row"] for row in rows] == list(range(1, 51))
    assert (rows[3]["date"], rows[3]["external_id"]) == ("2024-01-02", "3")
    assert json.loads(rows[3]["metadata"]) == {
        "when": "2024-01-02T03:04:00",
        "raw": "01ff",
        "price": "1.50",
        "nan": None,
        "tags": ["a", None],
    }


@pytest.mark.parametrize("shard_bytes", [2**40, 10 * 2**20])
def test_a_large_row_group_is_read_in_pieces(tmp_path, monkeypatch, shard_bytes):
    draw = random.Random(0)
    buffer = io.BytesIO()
    pl.DataFrame({"text": [draw.randbytes(4000).hex() for _ in range(3000)]}).write_parquet(buffer)
    source = stored(tmp_path, "a.parquet", buffer.getvalue())
    assert source.bytes > 10 * 2**20
    pieces = []

    class Recorded(io.BufferedReader):
        def read(self, size=-1):
            pieces.append(super().read(size))
            return pieces[-1]

    for module in (measured_files, slices):
        monkeypatch.setattr(module, "open_raw", lambda url: Recorded(io.FileIO(url)))
    corpus = Corpus(path=str(tmp_path), shard_bytes=shard_bytes)
    rows = [row for shard in shards_of(corpus) for frame in read_rows(shard, corpus) for row in frame["source_row"]]
    assert rows == list(range(1, 3001))
    assert max(map(len, pieces)) < 2 * 2**20


def refusal(source, **corpus):
    with pytest.raises(InputError) as refused:
        rows_of(source, **corpus)
    assert source.url in refused.value.where
    assert refused.value.remedy.endswith(".")
    return refused.value


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": "a"', "is not JSON"),
        (b"text", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"text": "a", "n": ' + b"1" * 5000 + b"}", "is not JSON"),
        (b'["text"]', "not an object"),
        (b'"text"', "not an object"),
        (b'{"body": "a", "n": 1}', "has no column `text`"),
        (b'{"text": 5}', "is a number, not a string"),
        (b'{"text": null}', "is null, not a string"),
        (b'{"text": ""}', "is empty"),
        (b'{"text": " \\n\\u00a0"}', "is empty"),
        (b'{"text": "\xff"}', "is not UTF-8"),
        (b'{"text": "half \\ud83d"}', "surrogate"),
        (b'{"text": "a", "n": ["\\ude00"]}', "surrogate"),
    ],
)
def test_a_bad_jsonl_row_is_named(tmp_path, line, problem):
    content = lines({"text": "good"}) + b"\n" + line + b"\n" + lines({"text": "never reached"})
    error = refusal(stored(tmp_path, "a.jsonl", content))
    assert error.where.endswith("a.jsonl, row 3")
    assert problem in error.problem


def test_the_columns_that_are_there_are_named(tmp_path):
    source = stored(tmp_path, "a.jsonl", lines({"body": "a", "n": 1}))
    assert "body, n" in refusal(source).remedy
    error = refusal(source, text_column="body", id_column="key")
    assert "`key`" in error.problem
    assert "corpus.id_column" in error.remedy


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"\n \n\n"),
        ("a.jsonl", b"\xef\xbb\xbf"),
        ("a.txt", b""),
        ("a.md.gz", gzip.compress(b"", mtime=0)),
        ("a.jsonl.zst", b""),
        ("a.jsonl.zst", zstandard.compress(b"")),
        ("a.parquet", b""),
    ],
)
def test_an_empty_file_has_no_rows(tmp_path, name, content):
    assert rows_of(stored(tmp_path, name, content)) == []


def test_an_empty_or_undecodable_text_file(tmp_path):
    assert "only white space" in refusal(stored(tmp_path, "a.txt", b" \n\t")).problem
    error = refusal(stored(tmp_path, "b.txt", "one\nGröße".encode("latin-1")))
    assert error.problem == "line 2 is not UTF-8 (byte 7)"
    assert "not UTF-8" in refusal(stored(tmp_path, "c.md", "text".encode("utf-16"))).problem


def parquet_bytes(frame):
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def test_bad_parquet_files(tmp_path):
    good = parquet_bytes(pl.DataFrame({"body": ["a", None], "n": [1, 2]}))
    missing = refusal(stored(tmp_path, "a.parquet", good))
    assert "`text`" in missing.problem
    assert "body, n" in missing.remedy
    null = refusal(stored(tmp_path, "a.parquet", good), text_column="body")
    assert null.where.endswith("row 2")
    assert "is null" in null.problem
    assert "Parquet" in refusal(stored(tmp_path, "b.parquet", b"PAR1 not really")).problem
    assert "Parquet" in refusal(stored(tmp_path, "c.parquet", good[:-20])).problem
    assert rows_of(stored(tmp_path, "d.parquet", parquet_bytes(pl.DataFrame(schema={"text": pl.String})))) == []


def incompressible_lines():
    draw = random.Random(0)  # long, so that the cut does not fall into a frame's first block
    return lines(*({"text": draw.randbytes(200).hex()} for _ in range(5000)))


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("suffix", [".jsonl", ".txt"])
@pytest.mark.parametrize("kept", [0.01, 0.5, 0.999])
def test_a_truncated_compressed_file(tmp_path, suffix, packing, kept):
    whole = PACKINGS[packing](incompressible_lines())
    error = refusal(stored(tmp_path, "a" + suffix + packing, whole[: int(kept * len(whole))]))
    assert "cut short" in error.problem


def test_a_cut_between_two_lines_is_noticed(tmp_path):
    """A flushed zstd block ends the text so far at a line's end, but not the frame."""
    writer = zstandard.ZstdCompressor().compressobj()
    flushed = writer.compress(lines({"text": "a"})) + writer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    assert "cut short" in refusal(stored(tmp_path, "a.jsonl.zst", flushed)).problem


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_file_that_is_not_what_its_suffix_says(tmp_path, packing):
    assert "damaged" in refusal(stored(tmp_path, "a.jsonl" + packing, lines({"text": "plain"}))).problem


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_several_compressed_frames_are_read_as_one(tmp_path, packing):
    parts = [lines({"text": text}) for text in ("one", "two", "three")]
    content = b"".join(PACKINGS[packing](part) for part in parts)
    assert len(rows_of(stored(tmp_path, "a.jsonl" + packing, content))) == 3


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_longest_document(tmp_path, packing):
    fits, beyond = "é" * 50, "é" * 50 + "x"
    for suffix, content in ((".txt", str.encode), (".jsonl", lambda text: lines({"text": text}))):
        name = "a" + suffix + packing
        good = stored(tmp_path, name, PACKINGS[packing](content(fits)))
        assert rows_of(good, max_document_bytes=100)[0]["text"] == fits
        error = refusal(stored(tmp_path, name, PACKINGS[packing](content(beyond))), max_document_bytes=100)
        assert error.where.endswith("row 1")
        assert "corpus.max_document_bytes" in error.remedy


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("suffix", [".jsonl", ".txt"])
def test_a_small_file_that_unpacks_to_a_huge_one_is_refused_early(tmp_path, suffix, packing, monkeypatch):
    unpacked = 256 * 2**20
    source = stored(tmp_path, "a" + suffix + packing, PACKINGS[packing](bytes(unpacked)))
    asked = 0
    real = decompressed.__wrapped__

    class Counted(io.RawIOBase):
        def __init__(self, stream):
            self.stream = stream

        def readable(self):
            return True

        def readinto(self, buffer):
            nonlocal asked
            size = self.stream.readinto(buffer)
            asked += size
            return size

    def counting(raw, url):
        for stream in real(raw, url):
            yield io.BufferedReader(Counted(stream))

    for module in (jsonl, text):
        monkeypatch.setattr(module, "decompressed", contextlib.contextmanager(counting))
    error = refusal(source, max_document_bytes=1000)
    assert error.where.endswith("row 1")
    assert 0 < asked < 2 * 2 * 2**20 < unpacked, "once when it is cut into slices, once when it is read"


def test_a_document_that_json_escapes_is_not_too_long_for_its_line(tmp_path):
    text = "я" * 2**20  # 2 MiB of UTF-8, 6 MiB as JSON's \\u044f
    (row,) = rows_of(stored(tmp_path, "a.jsonl", lines({"text": text})), max_document_bytes=2 * 2**20)
    assert row["text"] == text


def test_batches_are_bounded_and_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_BATCH_CHARACTERS", 100)
    content = lines(*({"text": f"{n:030}"} for n in range(10)))
    stored(tmp_path, "a.jsonl", content)
    corpus = Corpus(path=str(tmp_path))
    frames = list(read_rows(*shards_of(corpus), corpus))
    assert [frame.height for frame in frames] == [4, 4, 2]
    assert [row for frame in frames for row in frame["source_row"]] == list(range(1, 11))


def test_rows_before_a_bad_one_are_streamed(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_BATCH_ROWS", 1)
    stored(tmp_path, "a.jsonl", lines({"text": "a"}) + b"not JSON")
    corpus = Corpus(path=str(tmp_path))
    stream = read_rows(*shards_of(corpus), corpus)
    assert next(stream)["text"].to_list() == ["a"]
    with pytest.raises(InputError, match="row 2"):
        next(stream)


@pytest.mark.parametrize(
    "row",
    [
        b'"SECRET"',
        b'["SECRET"]',
        b'{"text": "SECRET"',
        b'{"text": SECRET}',
        b'{"text": "SECRET \xff"}',
        b'{"text": ["SECRET"]}',
        b'{"text": {"of": "SECRET"}}',
        b'{"text": "SECRET \\ud800"}',
        b'{"text": "' + b"SECRET " * 50 + b'"}',
    ],
)
def test_an_error_holds_no_text_of_the_row(tmp_path, row):
    """Errors are kept in the history of runs, and the document may be withdrawn."""
    refused = refusal(stored(tmp_path, "a.jsonl", row + b"\n"), max_document_bytes=100)
    assert "SECRET" not in str(refused)
