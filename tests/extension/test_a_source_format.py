"""A source format of one file: its files are found, cut, kept and forgotten like those of the package's own."""

import gzip
import hashlib
import re
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from influence_assets import extensions
from influence_assets.corpus import source_format
from influence_assets.corpus.measured_files import Digests
from influence_assets.corpus.readers import read_rows
from influence_assets.corpus.slices import list_shards
from influence_assets.corpus.source_format import corpus_suffixes, source_formats
from influence_assets.errors import InputError
from influence_assets.study import Corpus
from tests import studies
from tests.commanding import influence

EXAMPLE = Path(__file__).parent / "scrolls"
SCROLL = "tales/ferry.scroll"
FERRY = "The ferry leaves on the hour with the mail and the milk."
MILL = "The mill grinds by night, when the river is high."
TOLL = "The toll is two coins, three at the weekend."
RECORDS = f"Ferry\n{FERRY}\n%%\nMill\n{MILL}\n"
TITLES = "select title from documents where shard_id = $1 order by source_row"


@pytest.fixture(autouse=True)
def _nothing_remembered():
    """Entry points do not change while a process lives, but they do from test to test."""
    source_format._discovered.cache_clear()
    yield
    source_format._discovered.cache_clear()


@pytest.fixture
def folder(monkeypatch):
    monkeypatch.setenv(extensions.EXTENSIONS, str(EXAMPLE))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    (tmp_path / "installed_scroll.py").write_bytes((EXAMPLE / "formats" / "scroll.py").read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path))
    points = EntryPoints([EntryPoint("scroll", "installed_scroll", source_format.ROOM)])
    monkeypatch.setattr(extensions, "entry_points", lambda group: points.select(group=group))


def rows(corpus: Corpus) -> list[tuple[str, int, str, str]]:
    """Shard, number, title and text of every row."""
    shards = list_shards(corpus, Digests(Path("/nonexistent/digests")))
    frames = [(shard.shard_id, frame) for shard in shards for frame in read_rows(shard, corpus)]
    return [(shard, *row) for shard, frame in frames for row in frame.select("source_row", "title", "text").rows()]


@pytest.mark.parametrize("found_by", ["folder", "installed"])
def test_it_is_found_and_its_files_are_read_and_cut(request, tmp_path, found_by):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.scroll").write_text(RECORDS)
    (tmp_path / "corpus" / "b.scroll.gz").write_bytes(gzip.compress(RECORDS.encode()))
    corpus = Corpus(path=str(tmp_path / "corpus"), shard_bytes=60)
    with pytest.raises(InputError, match="holds no readable file"):
        rows(corpus)
    source_format._discovered.cache_clear()
    request.getfixturevalue(found_by)
    assert [one.name for one in source_formats()] == ["jsonl", "parquet", "text", "scroll"]
    assert corpus_suffixes()[-3:] == (".scroll", ".scroll.gz", ".scroll.zst")
    assert rows(corpus) == [
        (f"{name}{part}", number, title, text)
        for name in ("a.scroll", "b.scroll.gz")
        for part, number, title, text in (("", 1, "Ferry", FERRY), ("@00001", 2, "Mill", MILL))
    ]


def test_a_suffix_belongs_to_one_format(tmp_path, monkeypatch):
    (tmp_path / "formats").mkdir()
    code = (EXAMPLE / "formats" / "scroll.py").read_text().replace('packed(".scroll")', '(".md",)')
    (tmp_path / "formats" / "other.py").write_text(code)
    monkeypatch.setenv(extensions.EXTENSIONS, str(tmp_path))
    with pytest.raises(InputError, match=r"\.md is a suffix of text and of scroll"):
        source_formats()


def titles(study: Path) -> list[str]:
    return studies.ask_sql(study, TITLES, [SCROLL])["title"].to_list()


@pytest.fixture(scope="module")
def computed(standing, tmp_path_factory):
    """A study that stood before the format was added, brought up to date with a scroll. Not to be changed: copy it."""
    study = studies.copied(standing, tmp_path_factory.mktemp("scrolls"))
    path = study.parent / "corpus" / SCROLL
    path.parent.mkdir()
    path.write_text(RECORDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(extensions.EXTENSIONS, str(EXAMPLE))
        source_format._discovered.cache_clear()
        ran = influence("run", "--study", study)
    assert ran.code == 0, ran.out + ran.err
    assert titles(study) == ["Ferry", "Mill"]
    return study


@pytest.fixture
def study(computed, folder, tmp_path):  # noqa: ARG001  # with the format
    return studies.copied(computed, tmp_path / "study")


def document_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@pytest.mark.slow
def test_a_changed_record_is_computed_anew_and_the_old_one_collected(study):
    path = study.parent / "corpus" / SCROLL
    path.write_text(RECORDS.replace(MILL, TOLL).replace("Mill", "Toll"))
    ran = influence("run", "--study", study)
    assert ran.code == 0, ran.out + ran.err
    assert titles(study) == ["Ferry", "Toll"]
    assert influence("verify", "--study", study).code == 0
    collected = influence("gc", "--keep", "0", "--study", study)
    assert collected.code == 0
    assert re.match(r"Removed [1-9]\d* artifacts?:", collected.out)
    assert influence("run", "--study", study).out.startswith("Nothing to do")


@pytest.mark.slow
def test_a_damaged_file_is_an_error_by_record_and_what_stood_stays(study):
    path = study.parent / "corpus" / SCROLL
    path.write_bytes(RECORDS.encode().replace(b"river", b"r\xffver"))
    ran = influence("run", "--study", study)
    assert ran.code == 1
    assert f"{path}, row 2: line 2 is not UTF-8" in ran.out
    assert titles(study) == ["Ferry", "Mill"]
    path.write_text(RECORDS)
    assert influence("run", "--study", study).out.startswith("Nothing to do")


@pytest.mark.slow
def test_a_damaged_artifact_of_it_is_mended(study):
    table = studies.artifact(study, "documents", shard=SCROLL).folder / "documents.parquet"
    table.write_bytes(table.read_bytes()[:-9])
    assert influence("verify", "--study", study).code == 1
    assert influence("run", "--study", study).code == 0
    assert influence("verify", "--study", study).code == 0


@pytest.mark.soak
def test_a_document_of_it_is_forgotten(study):
    ended = influence("forget", "--document", document_id(MILL), "--study", study)
    assert ended.code == 0, ended.out + ended.err
    assert titles(study) == ["Ferry"]


@pytest.mark.slow
@pytest.mark.parametrize("command", [("run",), ("gc", "--keep", "0", "--yes")])
def test_without_the_format_its_files_are_not_taken_for_gone(study, monkeypatch, command):
    artifacts = [str(manifest.key) for manifest in studies.versions_of(study).workspace.store.manifests()]
    monkeypatch.delenv(extensions.EXTENSIONS)
    ended = influence(*command, "--study", study)
    assert ended.code == 1
    assert f"{SCROLL}: no source format has its suffix. Name the extension that has it" in ended.error
    assert titles(study) == ["Ferry", "Mill"]
    kept = [str(manifest.key) for manifest in studies.versions_of(study).workspace.store.manifests()]
    assert kept == artifacts
