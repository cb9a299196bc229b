"""The demo's questions: openings of sentences of the manual, with the manual's own continuations.

Wording and line breaks differ a little between Python versions. So each sentence is searched for in the manual of the
running Python; if it is found, its exact characters become the question, otherwise it is left out.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data.topics import topics

from influence_assets.demo.files import write_rows
from influence_assets.errors import InputError

FEWEST_QUESTIONS = 10

# (article, the sentence's opening, its continuation)
SENTENCES = (
    ("while", 'The "while" statement is used for', "repeated execution as long as an expression is true"),
    ("break", "It terminates the nearest enclosing loop, skipping", 'the optional "else" clause if the loop has one.'),
    ("pass", '"pass" is a null operation —', "when it is executed, nothing happens."),
    ("return", '"return" leaves the current function call with', 'the expression list (or "None") as return value.'),
    (
        "global",
        'It would be impossible to assign to a global variable without "global", although',
        "free variables may refer to globals without being declared global.",
    ),
    ("del", "Deletion of a target list recursively deletes", "each target, from left to right."),
    ("raise", 'If no expressions are present, "raise" re-raises', "the exception that is currently being handled"),
    ("assert", "Assert statements are a convenient way to", "insert debugging assertions into a program"),
    (
        "with",
        'The "with" statement is used to wrap the execution of',
        "a block with methods defined by a context manager",
    ),
    ("lambda", "Lambda expressions (sometimes called lambda forms) are used to", "create anonymous functions."),
    ("debugger", 'The module "pdb" defines', "an interactive source code debugger for Python programs."),
    (
        "typesmapping",
        "Mappings are mutable objects. There is currently only",
        "one standard mapping type, the *dictionary*.",
    ),
    (
        "exceptions",
        "Exceptions are a means of breaking out of the normal flow of control of a code block in order to",
        "handle errors or other exceptional conditions.",
    ),
    ("typesmethods", "Methods are functions that are called using", "the attribute notation."),
    (
        "truth",
        "Any object can be tested for truth value, for use in",
        'an "if" or "while" condition or as operand of the Boolean operations below.',
    ),
)


@dataclass(frozen=True)
class Question:
    """A prompt and its continuation, verbatim from the manual, and the articles that contain them.

    `article` is the article that the sentence was chosen from; `articles` are all that contain the same words, because
    the manual repeats itself ("compound" contains the text of "while").
    """

    query_id: str
    prompt: str
    completion: str
    article: str
    articles: tuple[str, ...]


def find_questions(manual: Mapping[str, str] = topics) -> list[Question]:
    """Return the questions whose `prompt + completion` is verbatim text of their article in a manual.

    Args:
        manual: the text of each article by its name.

    Raises:
        InputError: the manual has fewer than `FEWEST_QUESTIONS` of the sentences.
    """
    questions = []
    for article, opening, continuation in SENTENCES:
        sentence = re.compile(f"({_any_spacing(opening)})({_any_spacing(' ' + continuation)})")
        match = sentence.search(manual.get(article, ""))
        if match:
            articles = tuple(sorted(name for name, text in manual.items() if sentence.search(text)))
            questions.append(Question(article, match[1], match[2], article, articles))
    if len(questions) < FEWEST_QUESTIONS:
        raise InputError(
            "pydoc_data.topics",
            f"this Python's manual holds only {len(questions)} of the demo's {len(SENTENCES)} sentences",
            "Run the demo with CPython 3.11 to 3.14.",
        )
    return questions


def write_questions(path: Path) -> Path:
    """Write the questions as one query set: a .jsonl file with `prompt`, `completion` and metadata."""
    return write_rows(path, map(asdict, find_questions()))


def _any_spacing(words: str) -> str:
    """Return a pattern of the same words with any white space between them."""
    return r"\s+".join(re.escape(word) for word in words.split(" "))
