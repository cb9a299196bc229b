"""Which files are shards, and under which names."""

import contextlib
import os
import socket
from unittest import mock

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
    put(tmp_path, [*kept, "note.xyz", "p.parquet.gz", "x.json", "Makefile", ".hidden.txt", ".git/a.txt", "a/.x/b.txt"])
    assert [file.name for file in list_source_files(str(tmp_path))] == sorted(kept)
    file = next(file for file in list_source_files(str(tmp_path)) if file.name == "a/z.jsonl.gz")
    assert file == SourceFile("a/z.jsonl.gz", str(tmp_path / "a/z.jsonl.gz"), len("a/z.jsonl.gz"))


def test_a_filesystem_other_than_the_local_one():
    memory = fsspec.filesystem("memory")
    memory.pipe("/listed/deep/a.txt", b"seven b")
    memory.pipe("/listed/.b.txt", b"hidden")
    (file,) = list_source_files("memory://listed")
    assert (file.name, file.bytes) == ("deep/a.txt", 7)


def test_links_to_files_are_files(tmp_path):
    put(tmp_path / "real", ["a.txt", "sub/b.txt"])
    (tmp_path / "real" / "link.txt").symlink_to(tmp_path / "real" / "a.txt")
    (tmp_path / "path").symlink_to(tmp_path / "real")
    names = [file.name for file in list_source_files(str(tmp_path / "path"))]
    assert names == ["a.txt", "link.txt", "sub/b.txt"], "the path itself may be a link"


NO_FILES = {
    "a link to a folder": lambda place: place.symlink_to(place.parents[2] / "elsewhere"),
    "a link to a folder above": lambda place: place.symlink_to(place.parent),
    "a link to a device": lambda place: place.symlink_to(os.devnull),
    "a pipe": os.mkfifo,
    "a socket": lambda place: bind(place),
}


def bind(place):
    with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(place.parent):
        bound.bind(place.name)


@pytest.mark.parametrize("lists", [list_source_files, list_query_files])
@pytest.mark.parametrize("name", ["b.jsonl", "b"])
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_neither_a_file_nor_a_folder_is_an_error_by_name(tmp_path, lists, name, kind):
    """A file or a folder that was there may have been moved behind it, so it must not count as deleted."""
    put(tmp_path, ["listed/a.jsonl", "listed/sub/c.jsonl", "elsewhere/b.jsonl"])
    place = tmp_path / "listed" / "sub" / name
    NO_FILES[kind](place)
    with pytest.raises(InputError, match=r"is a link to a folder|is not a regular file") as refused:
        lists(str(tmp_path / "listed"))
    assert refused.value.where == str(place)
    assert "Put the folder itself there" in refused.value.remedy or "Put a file or a folder" in refused.value.remedy
    place.rename(place.with_name(f".{name}"))
    assert len(lists(str(tmp_path / "listed"))) == 2, "what is hidden is passed over"


@pytest.mark.parametrize("lists", [list_source_files, list_query_files])
@pytest.mark.parametrize("inside", [[], ["notes.xyz"], [".hidden.jsonl"], ["deep/x.xyz"]])
def test_a_folder_in_the_place_of_a_file_is_an_error_by_name(tmp_path, lists, inside):
    """Mounting a file that does not exist makes such a folder."""
    put(tmp_path, ["a.jsonl"])
    (tmp_path / "b.jsonl").mkdir()
    put(tmp_path / "b.jsonl", inside)
    with pytest.raises(InputError, match="is a folder with the name of a file") as refused:
        lists(str(tmp_path))
    assert refused.value.where == str(tmp_path / "b.jsonl")
    put(tmp_path / "b.jsonl", ["part.jsonl"])
    assert [file.name for file in lists(str(tmp_path))] == ["a.jsonl", "b.jsonl/part.jsonl"]


@pytest.mark.parametrize("name", ["b.jsonl", "b"])
@pytest.mark.parametrize(
    ("target", "problem"), [("directory", "is a link to a folder"), ("other", "is not a regular file")]
)
def test_what_is_no_file_behind_a_url_is_an_error_by_name(name, target, problem):
    memory = fsspec.filesystem("memory")
    memory.pipe("/linked/a.jsonl", b"a")
    entry = {"name": f"/linked/{name}", "size": 0, "type": "link"}
    ls, info = type(memory).ls, type(memory).info

    def with_entry(self, path, **options):
        return [*ls(self, path, **options), entry]

    def followed(self, path, **options):
        return entry | {"type": target} if path == entry["name"] else info(self, path, **options)

    with mock.patch.multiple(type(memory), ls=with_entry, info=followed):
        for lists in (list_source_files, list_query_files):
            with pytest.raises(InputError, match=problem) as refused:
                lists("memory://linked")
            assert refused.value.where == f"memory://linked/{name}"
    memory.mkdir("/linked/c.jsonl")
    with pytest.raises(InputError, match="is a folder with the name of a file"):
        list_source_files("memory://linked")
    memory.rmdir("/linked/c.jsonl")


@pytest.mark.parametrize("lists", [list_source_files, list_query_files])
@pytest.mark.parametrize("below", ["", "/sub", "/sub/deep"])
@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(5, "I/O error"), OSError(116, "Stale")]
)
def test_a_folder_that_cannot_be_listed_is_an_error_by_name(tmp_path, monkeypatch, lists, below, error):
    put(tmp_path, ["a.jsonl", "sub/b.jsonl", "sub/deep/c.jsonl"])
    real = os.scandir

    def scandir(folder):
        if str(folder).rstrip("/") == f"{tmp_path}{below}":
            raise error
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match="the folder cannot be listed") as refused:
        lists(str(tmp_path))
    assert refused.value.where.rstrip("/") == f"{tmp_path}{below}"
    assert error.strerror in refused.value.problem


def test_a_listing_that_fails_half_way_is_an_error(tmp_path, monkeypatch):
    put(tmp_path, ["a.jsonl", "b.jsonl"])
    real = os.scandir

    class Failing:
        def __init__(self, folder):
            self.entries = real(folder)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.entries.close()

        def __iter__(self):
            yield next(self.entries)
            raise OSError(5, "I/O error")

    monkeypatch.setattr(os, "scandir", Failing)
    with pytest.raises(InputError, match="the folder cannot be listed"):
        list_source_files(str(tmp_path))


def test_the_root_that_cannot_be_looked_at_is_not_missing(tmp_path, monkeypatch):
    put(tmp_path, ["sub/a.jsonl"])
    real = os.stat

    def stat(path, **options):
        if str(path) == f"{tmp_path}/sub":
            raise PermissionError(13, "Permission denied")
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    for lists in (list_source_files, list_query_files):
        with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
            lists(str(tmp_path / "sub"))


@pytest.mark.parametrize("name", ["dead.jsonl", "dead"])
def test_a_link_that_leads_nowhere_is_an_error_by_name(tmp_path, name):
    """It may stand for a file or a folder of a disk that is not mounted at present."""
    put(tmp_path, ["a.jsonl"])
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a link to something that is not there") as refused:
        list_source_files(str(tmp_path))
    assert refused.value.where == f"{tmp_path}/sub/{name}"
    (tmp_path / "sub" / name).unlink()
    (tmp_path / "sub" / name).symlink_to(tmp_path / "sub" / name)
    with pytest.raises(InputError, match="symbolic links"):
        list_source_files(str(tmp_path))
    (tmp_path / "sub" / name).rename(tmp_path / "sub" / f".{name}")
    assert [file.name for file in list_source_files(str(tmp_path))] == ["a.jsonl"], "what is hidden is passed over"


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(5, "I/O error"), RuntimeError("403")]
)
def test_a_folder_behind_a_url_that_cannot_be_listed_is_an_error_by_name(error):
    memory = fsspec.filesystem("memory")
    memory.pipe("/partly/a.jsonl", b"a")
    memory.pipe("/partly/sub/b.jsonl", b"b")
    real = type(memory).ls

    def ls(self, path, **options):
        if path.endswith("/sub"):
            raise error
        return real(self, path, **options)

    with mock.patch.object(type(memory), "ls", ls):
        for lists in (list_source_files, list_query_files):
            with pytest.raises(InputError, match="the folder cannot be listed") as refused:
                lists("memory://partly")
            assert refused.value.where == "memory://partly/sub"
    assert [file.name for file in list_source_files("memory://partly")] == ["a.jsonl", "sub/b.jsonl"]


def test_a_root_behind_a_url_that_cannot_be_looked_at_is_not_missing():
    memory = fsspec.filesystem("memory")
    memory.pipe("/locked/a.jsonl", b"a")
    with mock.patch.object(type(memory), "info", side_effect=PermissionError(13, "Permission denied")):
        for lists in (list_source_files, list_query_files):
            with pytest.raises(InputError, match="cannot be read"):
                lists("memory://locked")
    with pytest.raises(InputError, match="no such folder"):
        list_source_files("memory://nowhere")
    with pytest.raises(InputError, match="is a file, not a folder"):
        list_source_files("memory://locked/a.jsonl")


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
    put(tmp_path, ["a.xyz"])
    with pytest.raises(InputError, match="holds no readable file"):
        list_source_files(str(tmp_path))
    with pytest.raises(InputError, match="is a file, not a folder"):
        list_source_files(str(tmp_path / "a.xyz"))
    with pytest.raises(InputError, match="cannot be opened"):
        list_source_files("nosuchprotocol://bucket/folder")


@pytest.mark.parametrize("lists", [list_source_files, list_query_files])
@pytest.mark.parametrize("kind", ["a link to a device", "a pipe", "a socket"])
def test_a_path_that_is_neither_a_file_nor_a_folder_is_refused_without_waiting_for_it(tmp_path, lists, kind):
    (tmp_path / "deep").mkdir()
    place = tmp_path / "deep" / "q.jsonl"
    NO_FILES[kind](place)
    with pytest.raises(InputError, match=r"is not a regular file|not a folder") as refused:
        lists(str(place))
    assert refused.value.where == str(place)


def test_query_files_are_a_folder_of_jsonl_or_one_file(tmp_path):
    put(tmp_path, ["b/q.jsonl", "a.jsonl", "a.txt"])
    assert [file.name for file in list_query_files(str(tmp_path))] == ["a.jsonl", "b/q.jsonl"]
    one = str(tmp_path / "b" / "q.jsonl")
    assert list_query_files(one) == [SourceFile("q.jsonl", one, len("b/q.jsonl"))]
    with pytest.raises(InputError, match=r"is not a \.jsonl file"):
        list_query_files(str(tmp_path / "a.txt"))
    with pytest.raises(InputError, match=r"queries\.path"):
        list_query_files(str(tmp_path / "absent.jsonl"))
