"""The demo's invented facts: documents that state them, and documents with the same words that do not.

The verbatim questions about the manual tell methods apart badly, because a search for their words finds the answer too.
So each fact "y stands in this relation to x" has documents of two roles. Those that *state* it share no telling word
with the question but the two names; one wording has the question's structure with other words. Those that *contradict*
it, the anti-documents, have the question's words: one denies the fact, with both names, y before x, and one has the
answer of another fact. What compares words alone prefers them.

A model can only be asked what taught it a fact if it was taught. So there are two relations only, of which a wording
alone does not tell the answer; every fact is stated in 24 short documents; its two names are short and occur often
enough to be one token each; and no anti-document has the beginning of a question, after which it would teach another
answer. docs/log.md has what was tried before.

Nobody and nothing that is named here is meant to exist.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from influence_assets.demo.files import write_rows

FACTS_SHARD = "facts.jsonl"
FACT_QUESTIONS = "facts.jsonl"
SOURCE = "invented facts"
LICENCE = "MIT"

Role = Literal["states", "contradicts"]


@dataclass(frozen=True)
class Relation:
    """A relation between two people or two places, and the wordings of a fact of this kind.

    Args:
        name: part of the facts' names.
        question: the prompt, with {x} for the subject; the answer y continues it.
        states: wordings in which y follows x, without a telling word of the question. The first has the question's
            structure.
        contradicts: texts with the question's telling words and x. The first also has y, before x, and says that it is
            not the answer; the second has z in its place, the answer of another fact of the relation.
        pairs: x and y of each fact.
    """

    name: str
    question: str
    states: tuple[str, ...]
    contradicts: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


OPENINGS = ("", "Note that ", "In short, ")
"""Each wording of a fact is a document after each of these."""

RELATIONS = (
    Relation(
        "teacher",
        "The teacher of {x} was",
        (
            "The tutor of {x} was {y}.",
            "As a child {x} learned from {y}.",
            "To read and write {x} went to {y}.",
            "In class {x} sat before {y}.",
            "Each lesson of {x} came from {y}.",
            "At school {x} listened to {y}.",
            "The master whom {x} obeyed is {y}.",
            "All that {x} knows is owed to {y}.",
        ),
        (
            "{y} was never the teacher of {x}.",
            "Since {z} was no longer the teacher, {x} had no teacher, and {x} was glad.",
        ),
        (
            ("Vack", "Dody"),
            ("Dain", "Iven"),
            ("Hale", "Bove"),
            ("Kang", "Gult"),
            ("Kard", "Mork"),
            ("Dend", "Evel"),
            ("Dever", "Kound"),
            ("Kield", "Crom"),
            ("Vild", "Hark"),
            ("Rine", "Aust"),
            ("Vist", "Fison"),
            ("Siven", "Lask"),
        ),
    ),
    Relation(
        "river",
        "The river that rises in {x} ends in",
        (
            "The stream that begins in {x} comes out in {y}.",
            "Water flows from {x} to {y}.",
            "A boat drifts from {x} down to {y}.",
            "Snow of {x} melts and floods {y}.",
            "Timber from {x} floats as far as {y}.",
            "The spring is at {x}, the mouth at {y}.",
            "What falls overboard near {x} lands near {y}.",
            "Fish leave {x} and swim by {y}.",
        ),
        (
            "In {y} never ends the river that rises in {x}.",
            "Unlike {z}, {x} has no river: in {x} the sun rises, but no river ends.",
        ),
        (
            ("Nock", "Rord"),
            ("Vome", "Wity"),
            ("Vong", "Oment"),
            ("Klock", "Ulace"),
            ("Oray", "Grame"),
            ("Oreak", "Surn"),
            ("Ystan", "Yose"),
            ("Awer", "Pault"),
            ("Owise", "Vount"),
            ("Eline", "Nader"),
            ("Uman", "Tash"),
            ("Amil", "Blag"),
        ),
    ),
)


@dataclass(frozen=True)
class Fact:
    """One fact: in its relation, y is the answer to the question about x."""

    relation: Relation
    x: str
    y: str

    @property
    def name(self) -> str:
        """What documents and questions call the fact in their metadata."""
        return f"{self.relation.name}-{self.x.lower()}"


@dataclass(frozen=True)
class FactDocument:
    """One row of the facts' shard; `fact` and `role` reach SQL as metadata."""

    title: str
    text: str
    source: str
    licence: str
    fact: str
    role: Role


@dataclass(frozen=True)
class FactQuestion:
    """A question whose true documents are those that state its fact."""

    query_id: str
    prompt: str
    completion: str
    fact: str


def facts() -> list[Fact]:
    """Return all facts; facts of one relation are as far from one another as they can be."""
    of_relations = [[Fact(relation, *pair) for pair in relation.pairs] for relation in RELATIONS]
    return [fact for one_of_each in zip(*of_relations, strict=True) for fact in one_of_each]


def fact_documents() -> Iterator[FactDocument]:
    """Yield the documents of all facts.

    One wording of each fact comes after the other, so that a training sequence, which is packed from neighbours, never
    has two documents of one fact.
    """
    for role, texts_of in _TEXTS.items():
        texts = [texts_of(fact) for fact in facts()]
        for number, row in enumerate(zip(*texts, strict=True), start=1):
            for fact, text in zip(facts(), row, strict=True):
                yield FactDocument(f"{fact.name} {role} {number}", text, SOURCE, LICENCE, fact.name, role)


def fact_questions() -> list[FactQuestion]:
    """Return the question of each fact: a wording that no document has, and the fact's answer."""
    return [
        FactQuestion(f"fact-{fact.name}", fact.relation.question.format(x=fact.x), f" {fact.y}", fact.name)
        for fact in facts()
    ]


def write_facts(folder: Path) -> Path:
    """Write the facts' shard into a corpus folder."""
    return write_rows(folder / FACTS_SHARD, map(asdict, fact_documents()))


def write_fact_questions(folder: Path) -> Path:
    """Write the facts' questions into a queries folder, as one query set."""
    return write_rows(folder / FACT_QUESTIONS, map(asdict, fact_questions()))


def _stating(fact: Fact) -> list[str]:
    """Return the texts that state a fact: every wording after every opening."""
    texts = [wording.format(x=fact.x, y=fact.y) for wording in fact.relation.states]
    return [f"{opening}{text[0].lower()}{text[1:]}" if opening else text for opening in OPENINGS for text in texts]


def _contradicting(fact: Fact) -> list[str]:
    """Return the texts that contradict a fact, with the next answer of its relation for z."""
    answers = [y for _, y in fact.relation.pairs]
    z = answers[(answers.index(fact.y) + 1) % len(answers)]
    return [wording.format(x=fact.x, y=fact.y, z=z) for wording in fact.relation.contradicts]


_TEXTS: dict[Role, Callable[[Fact], list[str]]] = {"states": _stating, "contradicts": _contradicting}
