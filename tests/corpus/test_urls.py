"""URLs: what of them is kept, and what is never shown."""

from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from influence_assets.corpus.measured_files import Digests
from influence_assets.corpus.sources import list_query_files, list_source_files
from influence_assets.corpus.streams import open_raw
from influence_assets.errors import InputError
from influence_assets.urls import without_credentials

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"s3://key:{SECRET}@host/a", "s3://…@host/a"),
        (f"https://{SECRET}@host/a?x=1", "https://…@host/a?x=1"),
        (f"abfs://c/a?sv=2&sig={SECRET}&se=3", "abfs://c/a?sv=2&sig=…&se=3"),
        (f"https://h/a?X-Amz-Signature={SECRET}", "https://h/a?X-Amz-Signature=…"),
        (f"https://h/a?access_token={SECRET}.", "https://h/a?access_token=…"),
        (f"cannot open ftp://me:{SECRET}@h/x and https://me:{SECRET}@i/y", "cannot open ftp://…@h/x and https://…@i/y"),
        ("github://owner:repository@main/folder", "github://owner:repository@main/folder"),
        ("s3://bucket/me@home.txt", "s3://bucket/me@home.txt"),
        ("mail me@home.org", "mail me@home.org"),
        ("/local/a@b", "/local/a@b"),
    ],
)
def test_credentials_are_left_out(url, shown):
    assert without_credentials(url) == shown
    error = InputError(url, f"because {url}", "Do it.")
    assert SECRET not in str(error)
    assert shown in str(error)


class Hosted(MemoryFileSystem):
    """A file system that, like SFTP's, takes the host from the URL and forgets it in the names of files."""

    protocol = "hosted"
    store = MemoryFileSystem.store
    pseudo_dirs = MemoryFileSystem.pseudo_dirs
    checksums: ClassVar[dict] = {}
    opened: ClassVar[list] = []

    @classmethod
    def _strip_protocol(cls, path):
        path = path.removeprefix("hosted://")
        return "/" + path.partition("/")[2].strip("/") if "@" in path else "/" + path.strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path):
        assert "@host" in path, path
        return {}

    def info(self, path, **options):
        return super().info(path, **options) | self.checksums.get(self._strip_protocol(path), {})

    def _open(self, path, mode="rb", **options):
        if mode == "rb":
            self.opened.append(path)
        return super()._open(path, mode, **options)


@pytest.fixture
def hosted(monkeypatch):
    monkeypatch.setattr(Hosted, "store", {})
    monkeypatch.setattr(Hosted, "pseudo_dirs", [""])
    monkeypatch.setattr(Hosted, "checksums", {})
    monkeypatch.setattr(Hosted, "opened", [])
    fsspec.register_implementation("hosted", Hosted, clobber=True)
    return Hosted()


def test_urls_of_files_keep_their_host(hosted):
    hosted.pipe("/corpus/deep/a.txt", b"text")
    hosted.pipe("/corpus/q.jsonl", b"{}")
    for path in ("hosted://me:pw@host/corpus", "hosted://me:pw@host/corpus/"):
        files = list_source_files(path)
        assert [file.url for file in files] == [
            f"hosted://me:pw@host/corpus/{name}" for name in ("deep/a.txt", "q.jsonl")
        ]
        with open_raw(files[0].url) as stream:
            assert stream.read() == b"text"
    (query,) = list_query_files("hosted://me:pw@host/corpus/q.jsonl")
    assert query.url == "hosted://me:pw@host/corpus/q.jsonl"


@pytest.mark.parametrize("name", ["ETag", "md5Hash", "generation"])
def test_a_file_with_a_checksum_is_read_once(hosted, tmp_path, name):
    hosted.pipe("/corpus/a.txt", b"text")
    url = "hosted://me:pw@host/corpus/a.txt"
    hosted.checksums["/corpus/a.txt"] = {name: "one"}

    def lengths():
        digests = Digests(tmp_path / "cache")
        found = [digests.measured(url, "length", lambda stream: len(stream.read())) for _ in range(2)]
        digests.save()
        return found

    assert lengths() == [4, 4] == lengths()
    assert len(hosted.opened) == 1
    hosted.pipe("/corpus/a.txt", b"other")
    hosted.checksums["/corpus/a.txt"] = {name: "two"}
    assert lengths() == [5, 5]
    assert len(hosted.opened) == 2


def test_a_file_without_a_checksum_or_replaced_while_it_is_read_is_not_remembered(hosted, tmp_path):
    hosted.pipe("/corpus/a.txt", b"text")
    url = "hosted://me:pw@host/corpus/a.txt"
    digests = Digests(tmp_path / "cache")
    for _ in range(2):
        digests.measured(url, "length", lambda stream: len(stream.read()))
    assert len(hosted.opened) == 2
    hosted.checksums["/corpus/a.txt"] = {"ETag": "one"}

    def replaced(stream):
        hosted.checksums["/corpus/a.txt"] = {"ETag": "two"}
        return len(stream.read())

    digests.measured(url, "length", replaced)
    digests.measured(url, "length", lambda stream: len(stream.read()))
    assert len(hosted.opened) == 4
