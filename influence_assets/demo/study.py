"""Writes the demo's study: its file, its corpus and its questions, laid out as a user would."""

from pathlib import Path

from influence_assets.demo.corpus import write_corpus, write_held_back_shard
from influence_assets.demo.facts import write_fact_questions, write_facts
from influence_assets.demo.files import write_text
from influence_assets.demo.questions import write_questions

STUDY_FILE = "study.yaml"
CORPUS_FOLDER = "corpus"
QUERIES_FOLDER = "queries"
HELD_BACK_FOLDER = "later"

_STUDY = f"""\
# The demo: which articles of CPython's manual taught a small model to continue its sentences?
# docs/study.md describes every key; keys that are left out have their defaults.
name: demo

corpus:
  path: {CORPUS_FOLDER}  # manual.jsonl, and the docstrings of a few packages; one file is one shard

model:
  # A GPT-2 that is trained from scratch on the corpus, once, in about a minute and a half.
  train:
    layers: 3
    width: 128
    heads: 4
    vocabulary: 2048
    epochs: 10
    batch_sequences: 8
    learning_rate: 0.004
    seed: 0

sequences:
  length: 128

queries:
  path: {QUERIES_FOLDER}  # openings of the manual's sentences, and their continuations

methods: [ekfac, gradient_dot]  # the plain product of gradients, for comparison

scores:
  details_per_query: 20

storage:
  root: store
"""


def write_demo(folder: Path, *, with_facts: bool = True) -> Path:
    """Write the demo into a folder: study.yaml, corpus/, queries/ and, for later, a shard in later/.

    Files that already have the right content are not touched, so that nothing is outstanding if it is written again.

    Args:
        folder: where to write it.
        with_facts: whether to plant the invented facts in the corpus, and to ask about them.

    Returns:
        The study's file.

    Raises:
        InputError: this Python does not include the source files of its standard library.
    """
    write_corpus(folder / CORPUS_FOLDER)
    write_held_back_shard(folder / HELD_BACK_FOLDER)
    write_questions(folder / QUERIES_FOLDER / "questions.jsonl")
    if with_facts:
        write_facts(folder / CORPUS_FOLDER)
        write_fact_questions(folder / QUERIES_FOLDER)
    return write_text(folder / STUDY_FILE, _STUDY)
