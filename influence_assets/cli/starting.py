"""What `influence init` writes: a commented study, a few documents and questions."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from influence_assets.errors import InputError
from influence_assets.study import Study

EXAMPLE: dict[str, Any] = {
    "name": "example",
    "corpus": {"path": "corpus"},
    "model": {"train": {"layers": 2, "width": 64, "heads": 4, "vocabulary": 512, "epochs": 40}},
    "queries": {"path": "queries"},
    "sequences": {"length": 32},
}
DOCUMENTS = [
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
QUESTIONS = [
    {"query_id": "lamp", "prompt": "The lamp turns once in", "completion": " ten seconds"},
    {"query_id": "baker", "prompt": "The baker rises at", "completion": " three in the morning"},
]


def write_example(folder: Path) -> Path:
    """Write the example into a new or empty folder and return the study file.

    Raises:
        InputError: the folder holds something already, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(str(folder), "is not empty", "Name a new folder.")
        for name, rows in {"corpus/example.jsonl": DOCUMENTS, "queries/questions.jsonl": QUESTIONS}.items():
            file = folder / name
            file.parent.mkdir()
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        study = folder / "study.yaml"
        study.write_text(commented(EXAMPLE), encoding="utf-8")
    except OSError as error:
        raise InputError(str(folder), f"cannot be written ({error})", "Name a folder that you may write to.") from error
    return study


def commented(values: dict[str, Any]) -> str:
    """A study file with every key, each explained; keys without a value in `values` are comments with their default."""
    head = "# A study of influence-assets: which training data made a model say something.\n"
    head += "# Relative paths are relative to this file. Keys behind # have the value shown by default.\n"
    return head + "\n".join(_section(Study, values, 0)) + "\n"


def reference() -> str:
    """Every key of a study as a Markdown table, for the README."""
    rows = ["| key | default | what it is |", "|---|---|---|"]
    for key, field in _keys(Study, ""):
        default = "required" if field.is_required() else f"`{_yaml(field.default)}`"
        rows.append(f"| `{key}` | {default} | {(field.description or '').replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def _keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        section = _section_of(field)
        if section is None:
            yield prefix + name, field
        else:
            yield from _keys(section, f"{prefix}{name}.")


def _section(model: type[BaseModel], values: dict[str, Any] | None, depth: int) -> Iterator[str]:
    """The lines of one section; `values` None comments all of it out."""
    indent = "  " * depth
    for name, field in model.model_fields.items():
        section = _section_of(field)
        given = None if values is None else values.get(name)
        for line in textwrap.wrap(field.description or "", 100):
            yield f"{indent}# {line}"
        if section is not None:
            if depth == 0:
                yield f"\n# {' '.join((section.__doc__ or '').split())}"
            off = "# " if section is not Study and depth > 0 and given is None else ""
            yield f"{indent}{off}{name}:"
            yield from (
                f"{indent}{off}{line.removeprefix(indent)}" for line in _section(section, given or {}, depth + 1)
            )
        elif given is not None:
            yield f"{indent}{name}: {_yaml(given)}"
        else:
            default = "…" if field.default is PydanticUndefined else _yaml(field.default)
            yield f"{indent}# {name}: {default}"


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    options = [field.annotation, *getattr(field.annotation, "__args__", ())]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _yaml(value: object) -> str:
    value = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")
