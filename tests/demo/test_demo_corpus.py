import importlib
import inspect
import json
import os
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from influence_assets.demo import corpus as corpus_module
from influence_assets.demo.corpus import HELD_BACK_PACKAGE, PACKAGES, manual_articles, package_docstrings, write_corpus
from influence_assets.demo.files import write_text
from influence_assets.demo.questions import SENTENCES, find_questions
from influence_assets.demo.study import write_demo
from influence_assets.errors import InputError
from influence_assets.study import Study


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder)
    return folder


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_manual_is_every_topic_verbatim(demo):
    articles = {row["title"]: row for row in rows(demo / "corpus" / "manual.jsonl")}
    assert {title: row["text"] for title, row in articles.items()} == topics
    assert {row["source"] for row in articles.values()} == {"CPython manual"}
    assert {row["licence"] for row in articles.values()} == {"PSF-2.0"}
    assert all(row["url"].startswith("https://docs.python.org/3.") for row in articles.values())


def test_one_shard_for_each_package_and_one_held_back(demo):
    assert {path.name for path in (demo / "corpus").iterdir()} == {
        "manual.jsonl",
        "facts.jsonl",
        *(f"{package}.jsonl" for package in PACKAGES),
    }
    assert [path.name for path in (demo / "later").iterdir()] == [f"{HELD_BACK_PACKAGE}.jsonl"]
    for package in (*PACKAGES, HELD_BACK_PACKAGE):
        documents = list(package_docstrings(package))
        assert len(documents) >= 10
        assert {document.source for document in documents} == {package}
        assert all(document.title.split(".")[0] == package for document in documents)
        assert all(200 <= len(document.text) <= 6000 for document in documents)


def test_docstrings_are_those_that_python_itself_finds():
    """`inspect.getdoc` of the imported object, found by the document's title, is an independent reader."""
    modules, found = ("logging.handlers", "logging.config", "logging"), 0
    for document in package_docstrings("logging"):
        module = next(module for module in modules if f"{document.title}.".startswith(f"{module}."))
        owner = importlib.import_module(module)
        for part in document.title.removeprefix(module).split(".")[1:]:
            owner = getattr(owner, part, None)
        if owner is not None:
            assert inspect.cleandoc(owner.__doc__).split() == document.text.split()
            found += 1
    assert found >= 40


def test_packages_are_parsed_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "sample"
    (package / "test").mkdir(parents=True)
    (package / "test" / "test_it.py").write_text(f'"""{"t" * 300}"""')
    long, too_long = "Says much. " * 30, "x" * 6001
    (package / "__init__.py").write_text(
        f'"""{long}module"""\nraise SystemExit\n'
        f'if True:\n    class A:\n        """{long}class"""\n'
        f'        async def f(self):\n            """{long}\n            function"""\n'
        f'def short():\n    """Too short."""\ndef long():\n    """{too_long}"""\n',
    )
    monkeypatch.setattr(corpus_module.sysconfig, "get_path", lambda _: str(tmp_path))
    documents = list(package_docstrings("sample"))
    assert [document.title for document in documents] == ["sample", "sample.A", "sample.A.f"]
    assert documents[2].text == f"{long}\nfunction"
    assert documents[1].url.endswith("/Lib/sample/__init__.py#L5")
    assert "sample" not in sys.modules


def test_python_without_sources_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(InputError, match="does not include the source files"):
        write_corpus(tmp_path / "corpus")


def test_the_same_python_writes_the_same_bytes(demo, tmp_path):
    write_demo(tmp_path)
    assert contents(tmp_path) == contents(demo)


def test_writing_again_touches_nothing(tmp_path):
    path = write_text(tmp_path / "a" / "b.txt", "ä\n")
    os.utime(path, ns=(1, 1))
    write_text(path, "ä\n")
    assert path.stat().st_mtime_ns == 1
    write_text(path, "other")
    assert path.read_text() == "other"
    assert path.stat().st_mtime_ns > 1


def test_questions_are_verbatim_text_of_their_article(demo):
    questions = rows(demo / "queries" / "questions.jsonl")
    assert len(questions) >= 10
    for question in questions:
        sentence = question["prompt"] + question["completion"]
        assert sentence in topics[question["article"]]
        assert question["prompt"].strip() == question["prompt"]
        assert question["completion"][0].isspace()
        assert question["article"] in question["articles"]
        assert all(sentence.split()[0] in topics[article] for article in question["articles"])
    assert len({question["query_id"] for question in questions}) == len(questions)
    by_article = {question["article"]: question for question in questions}
    assert by_article["while"]["prompt"] == 'The "while" statement is used for'
    assert " ".join(by_article["while"]["completion"].split()) == "repeated execution as long as an expression is true"
    assert {"while", "compound"} <= set(by_article["while"]["articles"])


def test_a_sentence_that_is_not_there_is_left_out_and_line_breaks_do_not_matter():
    manual = {document.title: document.text for document in manual_articles()}
    assert len(find_questions(manual)) == len(find_questions())
    article, opening, _ = SENTENCES[1]
    manual[article] = manual[article].replace(opening.split()[0], "Then it")
    manual["while"] = " ".join(manual["while"].split())
    questions = {question.article: question for question in find_questions(manual)}
    assert article not in questions
    assert questions["while"].completion == " repeated execution as long as an expression is true"


def test_a_manual_without_the_sentences_is_an_error():
    with pytest.raises(InputError, match=f"only 0 of the demo's {len(SENTENCES)}"):
        find_questions({"while": "Nothing of the kind."})


def test_the_study_is_valid_and_points_into_its_folder(demo):
    study = Study.load(demo / "study.yaml")
    assert Path(study.corpus.path) == demo / "corpus"
    assert Path(study.queries.path) == demo / "queries"
    assert study.model.train is not None
    assert study.methods == ("ekfac", "gradient_dot")
