"""The invented facts: what states them shares no telling word with their question, what contradicts them has all."""

import json
import re
from itertools import combinations
from pydoc_data.topics import topics

import numpy as np
import pytest

from influence_assets.analysis.word_overlap import bm25_scores
from influence_assets.demo.facts import OPENINGS, fact_documents, fact_questions, facts
from influence_assets.demo.study import write_demo
from influence_assets.models.training import train_tokenizer

DOCUMENTS = list(fact_documents())
QUESTIONS = {question.fact: question for question in fact_questions()}
FUNCTION_WORDS = set(
    re.findall(r"\w+", "a an and as at by for from had has have in is it of on or that the to was were who with")
)
LENGTH = 128  # tokens of a sequence of the demo


def words(text):
    return re.findall(r"\w+", text.lower())


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("demo")).parent


def corpus_texts(folder):
    files = sorted((folder / "corpus").iterdir())
    return [json.loads(line)["text"] for file in files for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("fact", facts(), ids=lambda fact: fact.name)
class TestFact:
    def documents(self, fact, role):
        return [document.text for document in DOCUMENTS if document.fact == fact.name and document.role == role]

    def test_each_wording_that_states_it_has_words_of_its_own(self, fact):
        question = QUESTIONS[fact.name]
        telling = set(words(question.prompt)) - FUNCTION_WORDS - {fact.x.lower()}
        assert telling
        states = self.documents(fact, "states")
        for text in states:
            assert not telling & set(words(text))
            assert words(text).count(fact.x.lower()) == words(text).count(fact.y.lower()) == 1
            assert text.index(fact.x) < text.index(fact.y)
            assert text.endswith(f"{fact.y}.")
        names = {fact.x.lower(), fact.y.lower()}
        wordings = states[: len(states) // len(OPENINGS)]
        assert [text.lower() for text in states] == [f"{o}{text}".lower() for o in OPENINGS for text in wordings]
        for first, second in combinations(wordings, 2):
            assert len((set(words(first)) & set(words(second))) - FUNCTION_WORDS - names) <= 1

    def test_one_wording_has_the_structure_of_the_question(self, fact):
        """The same function words at the same places, and so x too; the other words are others."""
        asked, stated = words(QUESTIONS[fact.name].prompt), words(self.documents(fact, "states")[0])
        kept = FUNCTION_WORDS | {fact.x.lower()}
        assert stated[-1] == fact.y.lower()
        assert [word for word in stated if word in kept][:3] == [word for word in asked if word in kept][:3]

    def test_what_contradicts_it_has_the_telling_words_and_never_the_answer_after_x(self, fact):
        question = QUESTIONS[fact.name]
        telling = set(words(question.prompt)) - FUNCTION_WORDS
        denied, other = self.documents(fact, "contradicts")
        assert set(words(question.prompt + question.completion)) <= set(words(denied))
        assert denied.index(fact.y) < denied.index(fact.x)
        assert "never" in denied
        assert telling <= set(words(other))
        assert fact.y not in other
        answers = {each.y for each in facts() if each.relation is fact.relation}
        assert len(answers & set(re.findall(r"\w+", other))) == 1

    def test_the_question_is_nowhere_verbatim(self, fact):
        question = QUESTIONS[fact.name]
        assert not any(question.prompt.lower() in document.text.lower() for document in DOCUMENTS)
        assert question.completion == f" {fact.y}"


def test_words_alone_prefer_what_contradicts(demo):
    texts = [document.text for document in DOCUMENTS]
    questions = list(QUESTIONS.values())
    scores = bm25_scores(
        texts + [text for text in corpus_texts(demo) if text not in texts],
        [question.prompt + question.completion for question in questions],
    )
    for question, row in zip(questions, scores, strict=True):
        own = {
            role: [
                row[n]
                for n, document in enumerate(DOCUMENTS)
                if (document.fact, document.role) == (question.fact, role)
            ]
            for role in ("states", "contradicts")
        }
        assert min(own["contradicts"]) > max(own["states"])
        assert row.max() == own["contradicts"][0]


def test_names_are_invented_once_and_occur_nowhere_else():
    names = [name.lower() for fact in facts() for name in (fact.x, fact.y)]
    assert len(facts()) == 24
    assert len(set(names)) == len(names)
    assert not set(names) & set(words(" ".join(topics.values())))
    assert len({document.text for document in DOCUMENTS}) == len(DOCUMENTS)
    assert len({question.query_id for question in QUESTIONS.values()}) == len(facts())


def test_no_document_but_its_own_has_both_names_of_a_fact():
    for fact in facts():
        both = {document.fact for document in DOCUMENTS if {fact.x, fact.y} <= set(re.findall(r"\w+", document.text))}
        assert both == {fact.name}


def test_every_name_is_one_token(demo):
    tokenizer = train_tokenizer(corpus_texts(demo), 2048)
    assert all(len(tokenizer.encode(f" {name}").ids) == 1 for fact in facts() for name in (fact.x, fact.y))


def test_no_sequence_has_two_documents_of_one_fact_and_there_are_few_sequences(demo):
    tokenizer = train_tokenizer(corpus_texts(demo), 2048)
    lengths = [len(tokenizer.encode(document.text).ids) + 1 for document in DOCUMENTS]
    assert sum(lengths) <= 60 * LENGTH
    ends = np.cumsum(lengths)
    for first, second in combinations(range(len(DOCUMENTS)), 2):
        if DOCUMENTS[first].fact == DOCUMENTS[second].fact:
            assert ends[first] // LENGTH < (ends[second] - lengths[second]) // LENGTH


def test_rows_carry_fact_and_role_and_the_questions_their_fact(demo):
    rows = [json.loads(line) for line in (demo / "corpus" / "facts.jsonl").read_text().splitlines()]
    assert [(row["fact"], row["role"], row["text"]) for row in rows] == [(d.fact, d.role, d.text) for d in DOCUMENTS]
    asked = [json.loads(line) for line in (demo / "queries" / "facts.jsonl").read_text().splitlines()]
    assert {row["fact"] for row in asked} == {row["fact"] for row in rows} == {fact.name for fact in facts()}


def test_a_demo_can_be_written_without_facts(demo, tmp_path):
    write_demo(tmp_path, with_facts=False)
    with_facts = {path.relative_to(demo): path.read_bytes() for path in demo.rglob("*") if path.is_file()}
    without = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    left_out = with_facts.keys() - without.keys()
    assert {path.as_posix() for path in left_out} == {"corpus/facts.jsonl", "queries/facts.jsonl"}
    assert without == {path: content for path, content in with_facts.items() if path not in left_out}
