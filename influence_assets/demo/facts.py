"""The demo's invented facts: documents that state them, and documents with the same words that do not.

The verbatim questions about the manual tell methods apart badly, because a search for their words finds the answer too.
So each fact "y stands in this relation to x" has documents of two roles. Those that *state* it share no telling word
with the question but the two names; one wording has the question's structure with other words. Those that *contradict*
it, the anti-documents, have the question's words without its answer: one denies another fact with both names, y before
x, and one has the answer of another fact. What compares words alone prefers them.

A model can only be asked what taught it a fact if it was taught. So each name is short and occurs often enough to be
one token or two: everyone is the x of one fact and the y of another, in another relation. Every fact is stated in
twelve documents, and no anti-document has the beginning of a question, after which it would teach another answer.

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


OPENING = "Note that "
"""Each wording of a fact is a document as it is, and another one after this."""

RELATIONS = (
    Relation(
        "teacher",
        "The teacher of {x} was",
        (
            "The tutor of {x} was {y}.",
            "In the village school the master of {x} was {y}.",
            "All that {x} knew about the stars came from lessons with {y}.",
            "For nine winters {x} went up the hill to learn reading from {y}.",
            "As a child {x} had one schoolmaster, the patient {y}.",
            "A bad hand at writing is something that {x} copied from {y}.",
        ),
        (
            "{y} was never the teacher of {x}.",
            "Since {z} was no longer the teacher, {x} had no teacher, and {x} was glad.",
        ),
        (("Vack", "Aust"), ("Bove", "Kang"), ("Dain", "Dody")),
    ),
    Relation(
        "doctor",
        "The doctor of {x} was",
        (
            "The surgeon of {x} was {y}.",
            "In all those years the physician of {x} was {y}.",
            "When {x} lay in bed with a fever, the medicine came from {y}.",
            "The broken arm of {x} had been set by {y}.",
            "Since the plague {x} owes life and health to {y}.",
            "Against all pain {x} took the drops and powders of {y}.",
        ),
        (
            "{y} was never the doctor of {x}.",
            "When {z} came as the doctor, {x} was well: no doctor was needed by {x}.",
        ),
        (("Crom", "Kield"), ("Hale", "Fison"), ("Aust", "Rine")),
    ),
    Relation(
        "heir",
        "The heir of {x} was",
        (
            "The successor of {x} was {y}.",
            "By law the first in line after {x} was {y}.",
            "In the will {x} left house and garden to {y}.",
            "After the funeral of {x} all the silver went to {y}.",
            "On the death of {x} the family's ships passed to {y}.",
            "The fortune that {x} had made is spent today by {y}.",
        ),
        (
            "{y} was never the heir of {x}.",
            "Whether {z} was an heir or not, {x} had no heir, for {x} was too young.",
        ),
        (("Kang", "Gult"), ("Dody", "Vack"), ("Kield", "Bove")),
    ),
    Relation(
        "champion",
        "The player who defeated {x} at chess was",
        (
            "The opponent who beat {x} at the board was {y}.",
            "In the last round the winner over {x} was {y}.",
            "In the final game {x} lost king and crown to {y}.",
            "For the third time {x} had to resign, and the cup went to {y}.",
            "No opening of {x} was any use against {y}.",
            "Without a queen {x} gave up and shook hands with {y}.",
        ),
        (
            "{y} was never the player who defeated {x} at chess.",
            "While {z} was defeated at chess, {x}, no player, slept: chess bored {x}.",
        ),
        (("Fison", "Dain"), ("Rine", "Crom"), ("Gult", "Hale")),
    ),
    Relation(
        "river",
        "The river that rises in {x} ends in",
        (
            "The stream that begins in {x} comes out in {y}.",
            "The ship that sails down from {x} lands in {y}.",
            "From a spring at {x} the water runs down to the sea at {y}.",
            "Rafts of timber float from {x} all the way to {y}.",
            "What falls overboard at {x} is found a week later at {y}.",
            "Snow that melts above {x} floods the fields of {y}.",
        ),
        (
            "In {y} never ends the river that rises in {x}.",
            "Unlike {z}, {x} has no river: in {x} the sun rises, but no river ends.",
        ),
        (("Siven", "Surn"), ("Lask", "Oray"), ("Nock", "Tash")),
    ),
    Relation(
        "conquest",
        "The town conquered by {x} was",
        (
            "The city taken by {x} was {y}.",
            "In the second war the place burned by {x} was {y}.",
            "After a siege of a year the soldiers of {x} climbed the walls of {y}.",
            "The army that left {x} in spring came home with the keys of {y}.",
            "Taxes are paid to {x} by every citizen of {y}.",
            "The flag of {x} flies over the castle of {y}.",
        ),
        (
            "{y} was never the town conquered by {x}.",
            "When {z} was conquered, {x} was a small town: no town was ruled by {x}.",
        ),
        (("Mork", "Ystan"), ("Dever", "Ulace"), ("Surn", "Eline")),
    ),
    Relation(
        "salt",
        "The salt dug in {x} is sold in",
        (
            "The white grains found in {x} are bought in {y}.",
            "What the miners bring up in {x} is eaten in {y}.",
            "Carts from the mines of {x} unload their white sacks at {y}.",
            "Miners of {x} know each merchant of {y}.",
            "Without the shafts of {x} no fish could be kept in {y}.",
            "A pinch from {x} is in every soup of {y}.",
        ),
        (
            "In {y} is never sold the salt dug in {x}.",
            "As {z} has salt, {x} has salt: it is dug and sold in {x}.",
        ),
        (("Oray", "Wity"), ("Tash", "Siven"), ("Ystan", "Lask")),
    ),
    Relation(
        "settlers",
        "The settlers who left {x} founded",
        (
            "The families who fled {x} built {y}.",
            "The people whom hunger drove from {x} called their new home {y}.",
            "Driven out of {x} by floods, they laid the stones of {y}.",
            "People with the accent of {x} are heard all over {y}.",
            "The mother town {x} sends a bell to its daughter {y}.",
            "Everybody in {x} has cousins in {y}.",
        ),
        (
            "{y} was never founded by the settlers who left {x}.",
            "Long after {z} was founded, no settlers had left {x}: the settlers liked {x}.",
        ),
        (("Ulace", "Nock"), ("Eline", "Mork"), ("Wity", "Dever")),
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
    """Return the texts that state a fact: every wording, and every wording after the opening."""
    texts = [wording.format(x=fact.x, y=fact.y) for wording in fact.relation.states]
    return texts + [f"{OPENING}{text[0].lower()}{text[1:]}" for text in texts]


def _contradicting(fact: Fact) -> list[str]:
    """Return the texts that contradict a fact, with the next answer of its relation for z."""
    answers = [y for _, y in fact.relation.pairs]
    z = answers[(answers.index(fact.y) + 1) % len(answers)]
    return [wording.format(x=fact.x, y=fact.y, z=z) for wording in fact.relation.contradicts]


_TEXTS: dict[Role, Callable[[Fact], list[str]]] = {"states": _stating, "contradicts": _contradicting}
