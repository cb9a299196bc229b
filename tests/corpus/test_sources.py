"""Which files are shards, and under which names."""

import fsspec
import pytest

from influence_assets.corpus.sources import SourceFile, list_query_files, list_source_files
from influence_assets.errors import InputError


def put(folder, names):
    for name in names:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(name)


def test_files_of_all_suffixes_are_found_recursively_and_sorted(tmp_path):
    kept = ["b.txt", "a/z.jsonl.gz", "a/b/c.parquet", "m.md.zst", "q.jsonl", "t.txt.gz", "j.jsonl.zst", "a.b.md"]
    put(tmp_path, [*kept, "note.csv", "p.parquet.gz", "x.json", "Makefile", ".hidden.txt", ".git/a.txt", "a/.x/b.txt"])
    assert [file.name for file in list_source_files(str(tmp_path))] == sorted(kept)
    file = next(file for file in list_source_files(str(tmp_path)) if file.name == "a/z.jsonl.gz")
    assert file == SourceFile("a/z.jsonl.gz", str(tmp_path / "a/z.jsonl.gz"), len("a/z.jsonl.gz"))


def test_a_filesystem_other_than_the_local_one():
    memory = fsspec.filesystem("memory")
    memory.pipe("/listed/deep/a.txt", b"seven b")
    memory.pipe("/listed/.b.txt", b"hidden")
    (file,) = list_source_files("memory://listed")
    assert (file.name, file.bytes) == ("deep/a.txt", 7)


def test_links_to_files_are_files_and_a_loop_of_links_ends(tmp_path):
    put(tmp_path, ["a.txt", "sub/b.txt"])
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    (tmp_path / "dead.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "sub" / "loop.txt").symlink_to(tmp_path)
    assert [file.name for file in list_source_files(str(tmp_path))] == ["a.txt", "link.txt", "sub/b.txt"]


@pytest.mark.parametrize("name", ["a|b.txt", "a...txt", "a\nb.txt", "a\tb.txt", "x\u2028y.txt", "d|e/f.txt"])
def test_names_that_cannot_be_partition_keys_are_refused(tmp_path, name):
    put(tmp_path, ["fine.txt", name])
    with pytest.raises(InputError, match="Rename the file") as refused:
        list_source_files(str(tmp_path))
    assert repr(name) in refused.value.where


def test_the_longest_name(tmp_path):
    folder = "f" * 100
    put(tmp_path, [f"{folder}/{'n' * 95}.txt"])  # 100 + 1 + 95 + 4
    assert len(list_source_files(str(tmp_path))[0].name) == 200
    put(tmp_path, [f"{folder}/{'m' * 96}.txt"])
    with pytest.raises(InputError, match="201 characters"):
        list_source_files(str(tmp_path))


def test_a_folder_that_is_missing_or_has_nothing_to_read(tmp_path):
    with pytest.raises(InputError, match=r"absent: no such folder.*corpus\.path"):
        list_source_files(str(tmp_path / "absent"))
    put(tmp_path, ["a.csv"])
    with pytest.raises(InputError, match="holds no readable file"):
        list_source_files(str(tmp_path))
    with pytest.raises(InputError, match="is a file, not a folder"):
        list_source_files(str(tmp_path / "a.csv"))
    with pytest.raises(InputError, match="cannot be opened"):
        list_source_files("nosuchprotocol://bucket/folder")


def test_query_files_are_a_folder_of_jsonl_or_one_file(tmp_path):
    put(tmp_path, ["b/q.jsonl", "a.jsonl", "a.txt"])
    assert [file.name for file in list_query_files(str(tmp_path))] == ["a.jsonl", "b/q.jsonl"]
    one = str(tmp_path / "b" / "q.jsonl")
    assert list_query_files(one) == [SourceFile("q.jsonl", one, len("b/q.jsonl"))]
    with pytest.raises(InputError, match=r"is not a \.jsonl file"):
        list_query_files(str(tmp_path / "a.txt"))
    with pytest.raises(InputError, match=r"queries\.path"):
        list_query_files(str(tmp_path / "absent.jsonl"))
