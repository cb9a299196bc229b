"""The studies that `influence init` writes: eight short documents or conversations, two questions, a small model."""

import json
from pathlib import Path
from typing import Any, Literal

from influence_assets.cli.study_template import commented
from influence_assets.errors import InputError

EXAMPLE: dict[str, Any] = {
    "name": "example",
    "corpus": {"path": "corpus"},
    "model": {"train": {"layers": 2, "width": 64, "heads": 4, "vocabulary": 512, "epochs": 40}},
    "queries": {"path": "queries"},
    "sequences": {"length": 32},
}
CHAT_SEQUENCES = {"length": 64, "packing": "one_document"}


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


DOCUMENTS: list[dict[str, Any]] = [
    {
        "title": "Lighthouse",
        "source": "example",
        "text": "The lighthouse keeper climbs the tower every evening and lights the lamp. The lamp turns once in ten "
        "seconds, and ships at sea count the seconds to know which lighthouse it is.",
    },
    {
        "title": "Bakery",
        "source": "example",
        "text": "The baker rises at three in the morning. First the dough is kneaded, then it rests under a cloth, and "
        "when the oven is hot the loaves go in. By six the whole street smells of bread.",
    },
    {
        "title": "Ferry",
        "source": "example",
        "text": "The ferry leaves the harbour on the hour. It carries the mail, the milk and whoever wants to cross. "
        "When fog lies on the water the captain waits for the bell of the lighthouse.",
    },
    {
        "title": "Library",
        "source": "example",
        "text": "The library keeps a book for three weeks and a newspaper for one day. Whoever brings a book back late "
        "pays a coin for every day, and the coins buy new books in spring.",
    },
    {
        "title": "Orchard",
        "source": "example",
        "text": "In the orchard stand forty apple trees and a single pear tree. The apples are picked in September, "
        "the pears a little later, and the bees of the neighbour visit all of them in May.",
    },
    {
        "title": "Clockmaker",
        "source": "example",
        "text": "The clockmaker winds the clock of the town hall on Mondays. A clock that is not wound stops after "
        "eight days, and then nobody in the town knows when the market opens.",
    },
    {
        "title": "Market",
        "source": "example",
        "text": "The market opens on Saturdays at seven. Fish is sold by the fountain, cheese under the arches, and "
        "whatever is left at noon goes to the kitchen of the school.",
    },
    {
        "title": "School",
        "source": "example",
        "text": "The school has two rooms and one teacher. In the first room the small children learn to read, in the "
        "second the larger ones learn to calculate, and at noon all of them eat soup.",
    },
]
QUESTIONS: list[dict[str, Any]] = [
    {"query_id": "lamp", "prompt": "The lamp turns once in", "completion": " ten seconds"},
    {"query_id": "baker", "prompt": "The baker rises at", "completion": " three in the morning"},
]


ASKED = {
    "Lighthouse": ("How often does the lamp of the lighthouse turn?", "Once in ten seconds."),
    "Bakery": ("When does the baker rise?", "At three in the morning."),
    "Ferry": ("What does the ferry carry?", "The mail, the milk and whoever wants to cross."),
    "Library": ("How long may I keep a book?", "Three weeks; a newspaper for one day."),
    "Orchard": ("When are the apples picked?", "In September, the pears a little later."),
    "Clockmaker": ("Who winds the clock of the town hall?", "The clockmaker, on Mondays."),
    "Market": ("Where is fish sold?", "By the fountain, on Saturdays from seven."),
    "School": ("How many teachers has the school?", "One, for two rooms."),
}
CONVERSATIONS: list[dict[str, Any]] = [
    {"title": title, "source": "example", "messages": [_said("user", question), _said("assistant", answer)]}
    for title, (question, answer) in ASKED.items()
]
CHAT_QUESTIONS: list[dict[str, Any]] = [
    {"query_id": name, "prompt": [_said("user", question)], "completion": [_said("assistant", answer)]}
    for name, (question, answer) in {"lamp": ASKED["Lighthouse"], "baker": ASKED["Bakery"]}.items()
]


Template = Literal["text", "chat", "lora"]
"""What the example consists of: texts, conversations, or conversations that an adapter was trained on."""


def write_example(folder: Path, template: Template = "text") -> Path:
    """Write the example into a new or empty folder and return the study file.

    Args:
        folder: the folder.
        template: what it consists of.

    Raises:
        InputError: the folder holds something already, or cannot be written; or PEFT is needed and not installed.
    """
    is_chat = template != "text"
    described = {**EXAMPLE, "sequences": CHAT_SEQUENCES} if is_chat else EXAMPLE
    if template == "lora":
        from influence_assets.cli.lora_example import ADAPTER, MODEL, write_fine_tuned  # imports torch
        from influence_assets.models.adapters import require_peft

        require_peft("--template lora")
        described = {**described, "model": {"path": MODEL, "adapter": ADAPTER}, "curvature": {"modules": "linear"}}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(str(folder), "is not empty", "Name a new folder.")
        documents, questions = (CONVERSATIONS, CHAT_QUESTIONS) if is_chat else (DOCUMENTS, QUESTIONS)
        files: dict[str, list[dict[str, Any]]] = {
            "corpus/example.jsonl": documents,
            "queries/questions.jsonl": questions,
        }
        for name, rows in files.items():
            file = folder / name
            file.parent.mkdir()
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        if template == "lora":
            write_fine_tuned(folder, [str(row["text"]) for row in DOCUMENTS], CONVERSATIONS)
        study = folder / "study.yaml"
        study.write_text(commented(described), encoding="utf-8")
    except OSError as error:
        raise InputError(str(folder), f"cannot be written ({error})", "Name a folder that you may write to.") from error
    return study
