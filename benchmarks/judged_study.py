"""Writes a study whose scores are judged by retraining: the demo's, with many more questions.

    python -m benchmarks.judged_study FOLDER
    influence run --study FOLDER/study.yaml
    influence evaluate --study FOLDER/study.yaml

Half of the new questions continue text of the corpus, half continue docstrings of packages that are not in it. They
are drawn with a fixed seed, so the same Python writes the same questions.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from influence_assets.demo.corpus import package_docstrings
from influence_assets.demo.files import write_rows
from influence_assets.demo.study import CORPUS_FOLDER, QUERIES_FOLDER, write_demo

QUESTIONS = 120
SEED = 0
HELD_OUT = (
    "collections", "concurrent", "ctypes", "email", "html", "importlib", "json", "multiprocessing", "sqlite3",
    "tkinter", "wsgiref", "xml",
)  # fmt: skip
LONGEST, LETTERS = 220, 0.85
PROMPT_WORDS, COMPLETION_WORDS = (12, 20), (5, 10)


def write(folder: Path) -> Path:
    """Write the study into a folder and return its file."""
    study = write_demo(folder, with_facts=False)  # its banks of retrained models were made without them
    with study.open("a", encoding="utf-8") as file:
        file.write("\ncurvature:\n  modules: mlp  # the reference; set mlp+embedding in another folder\n")
    corpus = [row["text"] for file in sorted((folder / CORPUS_FOLDER).iterdir()) for row in _rows(file)]
    held_out = [document.text for package in HELD_OUT for document in package_docstrings(package)]
    for name, texts, others in (("corpus", corpus, ""), ("held_out", held_out, " ".join(corpus))):
        rows = list(questions_of(name, texts, others, QUESTIONS))
        write_rows(folder / QUERIES_FOLDER / f"{name}.jsonl", rows)
        print(f"{len(rows)} questions about {name}, of {len(texts)} texts")
    return study


def _rows(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def questions_of(kind: str, texts: Sequence[str], must_not_contain: str, count: int) -> Iterator[dict[str, str]]:
    """Yield so many questions, each from a text of its own as long as there are enough."""
    generator = np.random.default_rng([SEED, len(kind)])
    written: set[str] = set()
    while len(written) < count:
        for number in generator.permutation(len(texts)):
            words = list(re.finditer(r"\S+", texts[number]))
            before, after = (int(generator.integers(*span, endpoint=True)) for span in (PROMPT_WORDS, COMPLETION_WORDS))
            if len(words) < before + after or len(written) == count:
                continue
            first = int(generator.integers(0, len(words) - before - after, endpoint=True))
            chosen = words[first : first + before + after]
            start, cut, end = chosen[0].start(), chosen[before - 1].end(), chosen[-1].end()
            prompt, completion = texts[number][start:cut], texts[number][cut:end]
            if completion in written or completion in must_not_contain or not _is_prose(prompt + completion):
                continue
            written.add(completion)
            yield {"query_id": f"{kind}-{len(written):03}", "prompt": prompt, "completion": completion, "kind": kind}


def _is_prose(text: str) -> bool:
    """Return whether a text is short and mostly words, so that it surely has fewer tokens than the model's context."""
    words = sum(character.isalpha() or character.isspace() for character in text)
    return len(text) <= LONGEST and words >= LETTERS * len(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    print(write(parser.parse_args().folder))
