"""Slices: a stable rule, hashes of content alone, and a file that changes under the reader."""

import gzip
import hashlib
import io
import json
import os
from pathlib import Path

import fsspec
import polars as pl
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from small_corpora import PACKINGS, lines, shards_of

from influence_assets.corpus import readers, slices, streams
from influence_assets.corpus.formats import parquet
from influence_assets.corpus.readers import read_rows
from influence_assets.corpus.sources import SourceFile
from influence_assets.errors import InputError
from influence_assets.study import Corpus

WHOLE = 2**40
SUFFIXES = {f".jsonl{packing}": pack for packing, pack in PACKINGS.items()}
LINES = st.lists(
    st.one_of(
        st.text("aé😀", min_size=1, max_size=40).map(lambda text: lines({"text": text})),
        st.sampled_from([b"\n", b"  \r\n", lines({"text": "x" * 150})]),
    ),
    max_size=25,
)
SHARD_BYTES = st.integers(1, 200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


def only(folder, name, content, shard_bytes, **corpus):
    """The shards of a folder that holds one file."""
    for file in folder.iterdir():
        file.unlink()
    (folder / name).write_bytes(content)
    corpus = Corpus(path=str(folder), shard_bytes=shard_bytes, **corpus)
    return shards_of(corpus), corpus


def rows_of(shards, corpus):
    return [row for shard in shards for frame in read_rows(shard, corpus) for row in frame.rows(named=True)]


def parquet_bytes(frame, row_group_size=None):
    buffer = io.BytesIO()
    frame.write_parquet(buffer, row_group_size=row_group_size)
    return buffer.getvalue()


def places(shards):
    """What must stay when rows are added at the end."""
    return [(shard.shard_id, shard.content_hash, shard.first_row) for shard in shards]


@given(LINES, SHARD_BYTES, st.sampled_from([*SUFFIXES]), st.booleans())
def test_slices_are_the_lines_whose_first_byte_lies_in_them(folder, parts, shard_bytes, suffix, has_last_end):
    content = b"".join(parts)
    content = content if has_last_end else content.removesuffix(b"\n")
    shards, _ = only(folder, "a" + suffix, SUFFIXES[suffix](content), shard_bytes)
    expected, offset = {}, 0
    for number, line in enumerate(io.BytesIO(content), 1):
        expected.setdefault(offset // shard_bytes, []).append((offset, number, line))
        offset += len(line)
    filled = {index: rows for index, rows in expected.items() if any(line.strip() for *_, line in rows)}
    if filled:
        assert [shard.index for shard in shards] == [*filled]
    else:
        assert [shard.index for shard in shards] == [0]
        filled = {0: expected.get(0, [(0, 1, b"")])}
    for shard, (index, rows) in zip(shards, filled.items(), strict=True):
        whole = b"".join(line for *_, line in rows)
        assert shard.shard_id == (f"a{suffix}@{index:05}" if index else f"a{suffix}")
        assert shard.content_hash == hashlib.sha256(whole).hexdigest()
        assert (shard.start, shard.first_row, shard.bytes) == (*rows[0][:2], len(whole))
        assert shard.stop == (None if len(expected) <= 1 else shard.start + len(whole))


@given(LINES.filter(lambda parts: any(part.strip() for part in parts)), SHARD_BYTES, st.sampled_from([*SUFFIXES]))
def test_the_rows_of_all_slices_are_those_of_the_file(folder, parts, shard_bytes, suffix):
    content = SUFFIXES[suffix](b"\xef\xbb\xbf" + b"".join(parts))
    whole = rows_of(*only(folder, "a" + suffix, content, WHOLE))
    assert rows_of(*only(folder, "a" + suffix, content, shard_bytes)) == whole
    assert [row["text"] for row in whole] == [json.loads(part)["text"] for part in parts if part.strip()]


@given(LINES, LINES, SHARD_BYTES, st.sampled_from([*SUFFIXES]))
def test_appended_lines_leave_all_slices_but_the_last(folder, before, added, shard_bytes, suffix):
    pack = SUFFIXES[suffix]
    earlier, _ = only(folder, "a" + suffix, pack(b"".join(before)), shard_bytes)
    # A compressed file is appended to by another frame.
    later, _ = only(folder, "a" + suffix, pack(b"".join(before)) + pack(b"".join(added)), shard_bytes)
    if any(part.strip() for part in before):
        kept = places(earlier)[:-1]
        assert places(later)[: len(kept)] == kept
        assert later[len(kept)].shard_id == earlier[-1].shard_id
    if not added:
        assert places(later) == places(earlier)


TABLES = st.lists(
    st.tuples(st.text("aé😀", min_size=1, max_size=40), st.none() | st.integers(0, 9)), min_size=40, max_size=80
)


def table(rows):
    return pl.DataFrame(
        {"text": [text for text, _ in rows], "n": [n for _, n in rows]}, schema_overrides={"n": pl.Int64}
    )


@pytest.mark.soak
@given(TABLES, TABLES, SHARD_BYTES, st.tuples(*[st.integers(1, 30)] * 2), st.integers(1, 100))
def test_parquet_with_many_row_groups(folder, before, added, shard_bytes, row_groups, batch_rows):
    first, more = (
        parquet_bytes(table(rows), size) for rows, size in zip((before, before + added), row_groups, strict=True)
    )
    whole, corpus = only(folder, "a.parquet", first, WHOLE)
    assert [shard.content_hash for shard in whole] == [hashlib.sha256(first).hexdigest()]
    rows = rows_of(whole, corpus)
    assert [row["text"] for row in rows] == [text for text, _ in before]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "_BATCH_ROWS", batch_rows)
        earlier, corpus = only(folder, "a.parquet", first, shard_bytes)
        assert rows_of(earlier, corpus) == rows
    assert [shard.start for shard in earlier[1:]] == [shard.stop for shard in earlier[:-1]]
    assert all(shard.start // shard_bytes == shard.index for shard in earlier)
    later, corpus = only(folder, "a.parquet", more, shard_bytes)
    assert places(later)[: len(earlier) - 1] == places(earlier)[:-1]
    assert [row["text"] for row in rows_of(later, corpus)] == [text for text, _ in before + added]


def test_a_parquet_row_differs_wherever_a_value_or_its_type_does(tmp_path):
    def hashes(value):
        frame = pl.DataFrame({"text": ["a"] * 50, "v": [value] * 50})
        shards, _ = only(tmp_path, "a.parquet", parquet_bytes(frame, 10), 100)
        assert len(shards) > 5, "it is hashed row by row"
        return shards[0].content_hash

    values = [None, 1, 1.0, True, "1", b"1", "31", [1], ["1"], float("nan"), {"a": 1}, {"a": "1"}]
    assert len({hashes(value) for value in values}) == len(values)
    assert hashes([1]) == hashes([1])


@pytest.mark.parametrize("suffix", [".txt", ".md.gz"])
def test_a_text_file_is_one_slice_however_long(tmp_path, suffix):
    text = "one\ntwo\n" * 100
    packed = [text.encode()] if suffix == ".txt" else [gzip.compress(text.encode(), level) for level in (0, 9)]
    for content in packed:
        (shard,), corpus = only(tmp_path, "a" + suffix, content, 10)
        assert (shard.shard_id, shard.stop, shard.bytes) == ("a" + suffix, None, len(text))
        assert shard.content_hash == hashlib.sha256(text.encode()).hexdigest()
        assert [row["text"] for row in rows_of([shard], corpus)] == [text]


def test_packing_a_file_anew_changes_nothing(tmp_path):
    content = lines(*({"text": f"text {n}"} for n in range(100)))
    found = [only(tmp_path, "a.jsonl.gz", gzip.compress(content, level), 500)[0] for level in (1, 9)]
    assert places(found[0]) == places(found[1])
    assert len(found[0]) > 3
    found = [
        only(tmp_path, "a.jsonl.zst", zstandard.ZstdCompressor(level).compress(content), 500)[0] for level in (1, 19)
    ]
    assert places(found[0]) == places(found[1])


def test_a_row_over_several_slices_leaves_them_out(tmp_path):
    content = lines({"text": "a"}, {"text": "b" * 500}, {"text": "c"})
    shards, corpus = only(tmp_path, "a.jsonl", content, 100)
    assert [shard.shard_id for shard in shards] == ["a.jsonl", "a.jsonl@00005"]
    assert [[row["source_row"] for row in rows_of([shard], corpus)] for shard in shards] == [[1, 2], [3]]


def test_slices_of_a_file_on_another_filesystem():
    content = lines(*({"text": f"text {n}"} for n in range(50)))
    fsspec.filesystem("memory").pipe({"/sliced/a.jsonl": content, "/sliced/b.jsonl.gz": gzip.compress(content)})
    corpus = Corpus(path="memory://sliced", shard_bytes=300)
    shards = shards_of(corpus)
    assert len(shards) > 4
    assert [row["text"] for row in rows_of(shards, corpus)] == 2 * [f"text {n}" for n in range(50)]


def test_the_list_of_withdrawn_documents_is_no_source_file(tmp_path):
    corpus = Corpus(path=str(tmp_path), withdrawn=str(tmp_path / "withdrawn.jsonl"))
    for name in ("a.jsonl", "withdrawn.jsonl"):
        (tmp_path / name).write_bytes(lines({"text": "a"}))
    assert [shard.shard_id for shard in shards_of(corpus)] == ["a.jsonl"]


LONG = lines(*({"text": f"{n:0100}"} for n in range(40_000)))  # longer than any buffer on the way


@pytest.mark.parametrize("suffix", [*SUFFIXES])
@pytest.mark.parametrize("shard_bytes", [2**20, WHOLE])
def test_a_file_written_after_it_was_listed_is_refused(tmp_path, suffix, shard_bytes):
    shards, corpus = only(tmp_path, "a" + suffix, SUFFIXES[suffix](LONG), shard_bytes)
    assert (len(shards) > 3) == (shard_bytes == 2**20)
    edited = LONG.replace(b"39999", b"49999")
    assert edited != LONG
    (tmp_path / ("a" + suffix)).write_bytes(SUFFIXES[suffix](edited))
    assert len(rows_of(shards[:-1], corpus)) == shards[-1].first_row - 1, "the other slices are what they were"
    with pytest.raises(InputError, match="changed while it was read"):
        rows_of(shards[-1:], corpus)


@pytest.mark.parametrize("change", ["edit", "append", "cut", "not JSON"])
def test_a_file_written_while_it_is_read_is_refused(tmp_path, monkeypatch, change):
    monkeypatch.setattr(readers, "_BATCH_ROWS", 100)
    (shard,), corpus = only(tmp_path, "a.jsonl", LONG, WHOLE)
    frames = read_rows(shard, corpus)
    next(frames)
    with (tmp_path / "a.jsonl").open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        if change == "cut":
            file.truncate(end - 112)
        else:
            file.seek(end - (0 if change == "append" else 50))
            file.write({"edit": b"7", "append": lines({"text": "b"}), "not JSON": b'"7'}[change])
    with pytest.raises(InputError, match="changed while it was read") as refused:
        list(frames)
    assert refused.value.where == str(tmp_path / "a.jsonl")


@pytest.mark.parametrize("shard_bytes", [100, WHOLE])
def test_a_parquet_file_written_after_it_was_listed_is_refused(tmp_path, shard_bytes):
    frame = pl.DataFrame({"text": [f"text {n}" for n in range(100)], "n": range(100)})
    shards, corpus = only(tmp_path, "a.parquet", parquet_bytes(frame), shard_bytes)
    edited = frame.with_columns(n=pl.when(n=99).then(7).otherwise("n"))
    (tmp_path / "a.parquet").write_bytes(parquet_bytes(edited))
    rows_of(shards[:-1], corpus)
    with pytest.raises(InputError, match="changed while it was read"):
        rows_of(shards[-1:], corpus)


def test_a_bad_row_of_a_file_that_stands_is_named_as_such(tmp_path):
    shards, corpus = only(
        tmp_path, "a.jsonl", lines({"text": "a"}) * 20 + b"not JSON\n" + lines({"text": "b"}) * 20, 50
    )
    bad = [shard for shard in shards if shard.first_row <= 21][-1]
    with pytest.raises(InputError, match="is not JSON") as refused:
        rows_of([bad], corpus)
    assert refused.value.where.endswith("a.jsonl, row 21")


GZ = gzip.compress(os.urandom(3000).hex().encode() + b"\n")
DAMAGED = {
    "cut.jsonl.gz": GZ[:-20],
    "flipped.jsonl.gz": GZ[:500] + bytes([GZ[500] ^ 1]) + GZ[501:],
    "plain.txt.zst": b"not packed",
    "long.jsonl": b'{"text": "' + b"a" * (2**20 + 400) + b'"}\n',
    "table.parquet": b"PAR1 not really",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_slice_and_the_others_stay(tmp_path, name):
    (tmp_path / "good.jsonl").write_bytes(lines({"text": "a"}, {"text": "b"}))
    corpus = Corpus(path=str(tmp_path), shard_bytes=20, max_document_bytes=100)
    good = shards_of(corpus)
    (tmp_path / name).write_bytes(DAMAGED[name])
    shards = shards_of(corpus)
    (bad,) = (shard for shard in shards if shard not in good)
    assert [shard for shard in shards if shard in good] == good
    assert (bad.shard_id, bad.index, bad.stop, bad.is_readable) == (name, 0, None, False)
    assert bad.content_hash == f"damaged-{hashlib.sha256(DAMAGED[name]).hexdigest()}"
    assert len(rows_of(good, corpus)) == 2
    with pytest.raises(InputError) as refused:
        rows_of([bad], corpus)
    assert "changed" not in refused.value.problem
    assert name in refused.value.where


def test_the_slices_of_a_file_that_cannot_be_read_are_not_gone(tmp_path, monkeypatch):
    content = b"".join(lines({"text": f"row {n}"}) for n in range(4))
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "b.jsonl").write_bytes(content)
    corpus = Corpus(path=str(tmp_path), shard_bytes=18)
    ids = [shard.shard_id for shard in shards_of(corpus)]
    assert len(ids) == 8

    def opened(url):
        if url.endswith("a.jsonl"):
            raise OSError(5, "I/O error")
        return Path(url).open("rb")

    with monkeypatch.context() as patch:
        patch.setattr(streams, "_opened", opened)
        listed = {shard.shard_id: shard for shard in shards_of(corpus)}
    assert len(listed) == 5
    assert not [shard for shard in ids if slices.has_vanished(shard, listed, corpus)]
    (tmp_path / "a.jsonl").write_bytes(content[:18])
    listed = {shard.shard_id: shard for shard in shards_of(corpus)}
    gone = [shard for shard in ids if slices.has_vanished(shard, listed, corpus)]
    assert gone == [shard for shard in ids if shard.startswith("a.jsonl@")], "its rows are known to be fewer"


IN_THE_WAY = {
    "a file": lambda place: place.write_text("no folder any more"),
    "a link to a file": lambda place: place.symlink_to(__file__),
    "a pipe": os.mkfifo,
    "a link to a device": lambda place: place.symlink_to(os.devnull),
}


@pytest.mark.parametrize("folder", ["letters", "letters/1914"])
@pytest.mark.parametrize("kind", IN_THE_WAY)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl@00002", "a.unknown"])
def test_a_file_is_not_gone_while_something_else_is_in_the_place_of_its_folder(tmp_path, folder, kind, name):
    (tmp_path / "b.jsonl").write_bytes(lines({"text": "b"}))
    corpus = Corpus(path=str(tmp_path))
    listed = {shard.shard_id: shard for shard in shards_of(corpus)}
    shard = f"letters/1914/{name}"
    assert slices.has_vanished(shard, listed, corpus), "there is no folder"
    (tmp_path / folder).parent.mkdir(exist_ok=True)
    IN_THE_WAY[kind](tmp_path / folder)
    with pytest.raises(InputError, match=r"is not a folder, though letters/1914/a\..* was in it") as refused:
        slices.has_vanished(shard, listed, corpus)
    assert refused.value.where == str(tmp_path / folder)
    (tmp_path / folder).unlink()
    (tmp_path / folder).mkdir()
    assert slices.has_vanished(shard, listed, corpus), "the folder is empty"


def test_a_file_is_gone_when_its_folder_became_a_file_that_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines({"text": "a"}))
    corpus = Corpus(path=str(tmp_path))
    listed = {shard.shard_id: shard for shard in shards_of(corpus)}
    assert slices.has_vanished("a.jsonl/part.jsonl", listed, corpus)


@pytest.mark.parametrize("names", ["real.txt", "corpus/link.txt", "corpus/other.txt", "outside.txt"])
def test_the_list_of_withdrawn_documents_is_no_document_by_whatever_link_it_is_named(tmp_path, names):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("text")
    (tmp_path / "real.txt").write_text("0" * 32)
    for link in ("corpus/link.txt", "corpus/other.txt", "outside.txt"):
        (tmp_path / link).symlink_to(tmp_path / "real.txt")
    corpus = Corpus(path=str(tmp_path / "corpus"), withdrawn=str(tmp_path / names))
    assert [shard.shard_id for shard in shards_of(corpus)] == ["a.txt"]


def test_a_folder_with_nothing_but_the_list_of_withdrawn_documents_is_refused(tmp_path):
    (tmp_path / "withdrawn.jsonl").touch()
    with pytest.raises(InputError, match="holds no readable file"):
        shards_of(Corpus(path=str(tmp_path), withdrawn=str(tmp_path / "withdrawn.jsonl")))


def test_a_file_that_cannot_be_read_is_one_slice_too(tmp_path, monkeypatch):
    gone = SourceFile("gone.jsonl", str(tmp_path / "gone.jsonl"), 7)
    monkeypatch.setattr(slices, "list_source_files", lambda _: [gone])
    corpus = Corpus(path=str(tmp_path))
    (shard,) = shards_of(corpus)
    assert not shard.is_readable
    with pytest.raises(InputError, match="cannot be read"):
        rows_of([shard], corpus)
    (tmp_path / "gone.jsonl").write_bytes(lines({"text": "a"}))
    with pytest.raises(InputError, match="changed while it was read"):
        rows_of([shard], corpus)
