"""Files in the corpus's folder that no source format reads: they are counted, by name."""

import fsspec
import pytest

from influence_assets.corpus.sources import list_source_files, unread_files
from influence_assets.study import Corpus

READ = ("a.jsonl", "sub/b.txt.gz")
UNREAD = ("notes.docx", "sub/data.csv", "sub/deep/readme", "x.json")
HIDDEN = (".git/config.txt", ".notes.csv")


def local(folder):
    for name in (*READ, *UNREAD, *HIDDEN):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return str(folder)


def remote(_folder):
    memory = fsspec.filesystem("memory")
    for name in (*READ, *UNREAD, *HIDDEN):
        memory.pipe(f"/unread/{name}", b"x")
    return "memory://unread"


@pytest.mark.parametrize("placed", [local, remote])
def test_every_visible_file_is_either_read_or_counted(placed, tmp_path):
    corpus = Corpus(path=placed(tmp_path))
    assert [file.name for file in list_source_files(corpus.path)] == sorted(READ)
    assert unread_files(corpus) == sorted(UNREAD)


def test_the_list_of_withdrawn_documents_is_not_counted(tmp_path):
    path = local(tmp_path)
    (tmp_path / "withdrawn.list").write_text("")
    assert unread_files(Corpus(path=path, withdrawn=f"{path}/withdrawn.list")) == sorted(UNREAD)
