"""Writes invented facts and questions about some of them: `python facts.py`.

Each fact is told by two documents in different words, so for each question it is known which documents it comes from.
"""

import json
import random
from itertools import product
from pathlib import Path

HERE = Path(__file__).parent

FACTS, QUESTIONS, SEED = 64, 32, 0
"""How many facts are told, how many of them are asked for, and the seed that they are drawn with."""

NAMES = (
    ["Ottilie", "Bruno", "Selma", "Caspar", "Wanda", "Jonas", "Edith", "Lorenz", "Thea", "Anton"],
    ["Grenz", "Varga", "Holm", "Quist", "Brand", "Sorel", "Lindt", "Mohr", "Falk", "Renner"],
)
THINGS = (
    ["folding", "silent", "floating", "copper", "double", "hollow", "woollen", "striped", "seven-legged", "rotating"],
    ["oven", "ladder", "umbrella", "clock", "bridge", "kettle", "saddle", "lantern", "stool", "whistle"],
)
TOWNS = ["Brellford", "Varsand", "Ostmark", "Tillen", "Corvey", "Nimwick", "Aldhaven", "Purle"]
TRADES = ["baker", "smith", "clerk", "sailor", "teacher", "gardener", "tailor", "miller"]

TELLING = (
    "{name} is remembered for inventing the {thing}. Nobody in {town} had asked the {trade} for it.",
    "The {thing} comes from the workshop of {name} in {town}. Before that, every {trade} did without.",
)


def facts() -> list[dict[str, str]]:
    """Return facts of which no two have the same name or the same thing."""
    drawn = random.Random(SEED)  # noqa: S311  # facts, not secrets
    names, things = (drawn.sample([" ".join(pair) for pair in product(*parts)], FACTS) for parts in (NAMES, THINGS))
    return [
        {"name": name, "thing": thing, "town": drawn.choice(TOWNS), "trade": drawn.choice(TRADES)}
        for name, thing in zip(names, things, strict=True)
    ]


def write(folder: Path) -> None:
    """Write `corpus/facts.jsonl` and `queries/questions.jsonl` into a folder.

    A document's metadata have the number of the fact that it tells, and a question's the number of the one that it asks
    for.
    """
    told = list(enumerate(facts()))
    documents = [
        {"title": fact["name"], "fact": number, "text": sentence.format(**fact)}
        for number, fact in told
        for sentence in TELLING
    ]
    questions = [
        {
            "query_id": f"fact-{number:02}",
            "fact": number,
            "prompt": f"{fact['name']} is remembered for inventing the",
            "completion": f" {fact['thing']}",
        }
        for number, fact in told[:QUESTIONS]
    ]
    for name, rows in (("corpus/facts.jsonl", documents), ("queries/questions.jsonl", questions)):
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    write(HERE)
