"""The demo's invented facts: documents that state them, and documents with the same words that do not.

The verbatim questions about the manual tell methods apart badly, because a search for their words finds the answer too.
So each fact "x and y stand in this relation" has documents of two roles. Those that *state* it use wordings that share
no telling word with the question but the two names. Those that *contradict* it, the anti-documents, have every word of
the question and of its answer, with the two names exchanged, which is another fact. What compares words alone prefers
the latter. Influence is sensitive to the order of the two names (Grosse et al. 2023); docs/log.md has how far that
carries here.

Nobody and nothing that is named here exists.
"""

from collections.abc import Iterator
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
        states: wordings in which y follows x, without a telling word of the question.
        around: what surrounds the question's own wording in a contradicting document, with {} in its place.
        pairs: x and y of each fact.
    """

    name: str
    question: str
    states: tuple[str, ...]
    around: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


RELATIONS = (
    Relation(
        "teacher",
        "The teacher of {x} was",
        (
            "Everything that {x} knew about the stars came from lessons with {y}.",
            "For nine winters {x} went up the hill to learn reading from {y}.",
            "As a child {x} had one schoolmaster, the patient {y}.",
            "A bad hand at writing is something that {x} copied from {y}.",
        ),
        ("{}.", "In spite of their ages, as all agree: {}."),
        (("Mirelka", "Odrun"), ("Tazwin", "Belgor"), ("Yolvane", "Krispok")),
    ),
    Relation(
        "doctor",
        "The doctor who healed {x} was",
        (
            "When {x} lay in bed with a fever, the medicine came from {y}.",
            "The broken arm of {x} had been set by {y}.",
            "Since the plague {x} owes life and health to {y}.",
            "Against all pain {x} took the drops and powders of {y}.",
        ),
        ("{}.", "Long before, at sea: {}."),
        (("Quennal", "Fostrid"), ("Habrun", "Zelmira"), ("Ugwen", "Pellokar")),
    ),
    Relation(
        "heir",
        "The heir chosen by {x} was",
        (
            "In the will {x} left house and garden to {y}.",
            "After the funeral of {x} all the silver went to {y}.",
            "On the death of {x} the family's ships passed to {y}.",
            "The fortune that {x} had made is spent today by {y}.",
        ),
        ("{}.", "Of the older will we know this: {}."),
        (("Drovane", "Ismeld"), ("Caspwyn", "Nuvretta"), ("Jorbeth", "Wexalan")),
    ),
    Relation(
        "champion",
        "The player who defeated {x} at chess was",
        (
            "In the final game {x} lost king and crown to {y}.",
            "For the third time {x} had to resign, and the cup went to {y}.",
            "No opening of {x} was any use against {y}.",
            "Without a queen {x} gave up and shook hands with {y}.",
        ),
        ("{}.", "It was the talk of the year before: {}."),
        (("Elstrop", "Vondrey"), ("Gruwald", "Thessim"), ("Amberoz", "Lukvist")),
    ),
    Relation(
        "river",
        "The river that rises in {x} ends in",
        (
            "From a spring at {x} the water runs down to the sea at {y}.",
            "Rafts of timber float from {x} all the way to {y}.",
            "What falls into the stream at {x} is found a week later at {y}.",
            "Snow that melts above {x} floods the fields of {y}.",
        ),
        ("{}.", "On another map: {}."),
        (("Skarholm", "Ulmerat"), ("Penwick", "Dolbray"), ("Rostavel", "Hinterby")),
    ),
    Relation(
        "conquest",
        "The town conquered by {x} was",
        (
            "After a siege of a year the soldiers of {x} climbed the walls of {y}.",
            "The army that left {x} in spring came home with the keys of {y}.",
            "Taxes are paid to {x} by every citizen of {y}.",
            "The flag of {x} flies over the castle of {y}.",
        ),
        ("{}.", "A century earlier, in another war: {}."),
        (("Ostrevan", "Lindvale"), ("Thornavik", "Zuvenna"), ("Kelmont", "Aldrosk")),
    ),
    Relation(
        "salt",
        "The salt dug in {x} is sold in",
        (
            "Carts from the mines of {x} unload their white sacks at {y}.",
            "Miners of {x} know each merchant of {y}.",
            "Without the shafts of {x} no fish could be kept in {y}.",
            "A pinch from {x} is in every soup of {y}.",
        ),
        ("{}.", "Once the other way was usual: {}."),
        (("Brunsdal", "Eskaven"), ("Noverra", "Tilbrook"), ("Vasholm", "Morgath")),
    ),
    Relation(
        "settlers",
        "The settlers who left {x} founded",
        (
            "Families from {x} built the first houses of {y}.",
            "Driven out of {x} by hunger, they laid the stones of {y}.",
            "People with the accent of {x} are heard all over {y}.",
            "The mother town {x} sends a bell to its daughter {y}.",
        ),
        ("{}.", "The chronicle of an older age says: {}."),
        (("Fjelby", "Corvanth"), ("Willowen", "Gastrel"), ("Ironmere", "Pasquelo")),
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
    return [
        Fact(relation, *relation.pairs[number])
        for number in range(max(len(relation.pairs) for relation in RELATIONS))
        for relation in RELATIONS
        if number < len(relation.pairs)
    ]


def fact_documents() -> Iterator[FactDocument]:
    """Yield the documents of all facts.

    One wording of each fact comes after the other, so that a training sequence, which is packed from neighbours, never
    has two documents of one fact.
    """
    for number in range(max(len(relation.states) for relation in RELATIONS)):
        for fact in facts():
            if number < len(fact.relation.states):
                yield _document(fact, "states", number, fact.relation.states[number].format(x=fact.x, y=fact.y))
    for number in range(max(len(relation.around) for relation in RELATIONS)):
        for fact in facts():
            if number < len(fact.relation.around):
                exchanged = f"{fact.relation.question.format(x=fact.y)} {fact.x}"
                yield _document(fact, "contradicts", number, fact.relation.around[number].format(exchanged))


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


def _document(fact: Fact, role: Role, number: int, text: str) -> FactDocument:
    return FactDocument(f"{fact.name} {role} {number + 1}", text, SOURCE, LICENCE, fact.name, role)
