"""Damages some documents of the demo's corpus, and measures how well self-influence finds them.

    python -m benchmarks.poisoned FOLDER

A twentieth of the documents is damaged, in equal parts in each of four ways, and says so in a column that the model
never sees. The model is trained on all of them. Documents are then read in the order of self-influence for each token,
of self-influence, of their loss for each token, and of their length; the table has for each order and kind of damage

- AUC: how often a damaged document comes before an intact one (0.5 is chance);
- found: the share of the damaged ones among the tenth of all documents that is read first (0.1 is chance).
"""

import argparse
import json
import random
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy.stats import mannwhitneyu

from influence_assets.assets import open_workspace
from influence_assets.cli.console import console
from influence_assets.cli.study_runs import run_study
from influence_assets.demo.files import write_rows
from influence_assets.demo.study import CORPUS_FOLDER, QUERIES_FOLDER, write_demo
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.layouts.model import runner
from influence_assets.layouts.sequences import shard_sequences
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.catalogue import query
from influence_assets.study import Study

SHARE, READ, SEED = 0.05, 0.1, 0
SEQUENCES_AT_ONCE = 32
DOCUMENTS = """
    select
        shard_id, document_key, self_influence_nats, nats_per_token, tokens,
        coalesce(metadata ->> '$.damage', 'none') as damage
    from self_influence_by_document inner join documents using (shard_id, document_id)
"""
SPANS = "select sequence_id, document_key, token_start, token_end from sequence_documents"


def _shuffled(text: str, _other: str, generator: random.Random) -> str:
    words = text.split(" ")
    generator.shuffle(words)
    return " ".join(words)


def _swapped(text: str, other: str, _generator: random.Random) -> str:
    """Replace every second sentence by one of another document."""
    own, others = text.split(". "), other.split(". ")
    return ". ".join(others[n % len(others)] if n % 2 else sentence for n, sentence in enumerate(own))


def _foreign(text: str, _other: str, generator: random.Random) -> str:
    """Replace each letter by another one, always the same in one document: words and spaces of an unknown language."""
    letters = list(string.ascii_lowercase)
    generator.shuffle(letters)
    permuted = "".join(letters)
    return text.translate(str.maketrans(string.ascii_letters, permuted + permuted.upper()))


def _random(text: str, _other: str, generator: random.Random) -> str:
    return "".join(generator.choice(string.printable) for _ in text)


DAMAGE: dict[str, Callable[[str, str, random.Random], str]] = {
    "words shuffled": _shuffled,
    "sentences swapped": _swapped,
    "letters replaced": _foreign,
    "random characters": _random,
}


def damage(folder: Path, seed: int) -> None:
    """Damage a share of the documents in a folder of .jsonl files, and name the kind in their column `damage`."""
    files = {file: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in
             sorted(folder.glob("*.jsonl"))}  # fmt: skip
    documents: list[dict[str, Any]] = [row for rows in files.values() for row in rows]
    generator = random.Random(seed)  # nothing secret
    chosen = generator.sample(documents, round(SHARE * len(documents)))
    texts = [row["text"] for row in documents]
    for number, row in enumerate(chosen):
        kind = list(DAMAGE)[number % len(DAMAGE)]
        row["text"] = DAMAGE[kind](row["text"], generator.choice(texts), generator)
        row["damage"] = kind
    for file, rows in files.items():
        write_rows(file, rows)


def losses(versions: Versions) -> dict[int, np.ndarray]:
    """Return the loss of every token of each sequence, in nats, by its id; the first token has none."""
    graph = versions.workspace.graph

    def artifact(name: str, partition: Partition) -> Artifact:
        key = versions.key(graph[name], partition)
        assert key is not None  # it was just computed
        return versions.workspace.store.open(key)

    model = runner(versions.workspace, artifact("language_model", Partition()), lambda *_: None).model
    found = {}
    for partition in versions.partitions(graph["token_sequences"]):
        sequences = shard_sequences(artifact("token_sequences", partition))
        for start in range(0, len(sequences), SEQUENCES_AT_ONCE):
            rows = slice(start, start + SEQUENCES_AT_ONCE)
            tokens = torch.from_numpy(sequences.tokens[rows].astype(np.int64))
            with torch.no_grad():
                likelihoods = model(input_ids=tokens).logits[:, :-1].log_softmax(-1)
            nats = torch.zeros(tokens.shape).index_copy_(
                1, torch.arange(1, tokens.shape[1]), -likelihoods.gather(2, tokens[:, 1:, None])[..., 0]
            )
            for key, length, row in zip(sequences.keys[rows], sequences.lengths[rows], nats.numpy(), strict=True):
                found[int(key)] = row[:length]
    return found


def auc(damaged: np.ndarray, intact: np.ndarray) -> float:
    """Return how often a damaged document has a higher value than an intact one; equal values count half."""
    return float(mannwhitneyu(damaged, intact).statistic / (len(damaged) * len(intact)))


def figures(documents: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield AUC and share found of each order and kind of damage.

    Args:
        documents: a row for each document, with `damage` and the columns that it is ordered by.
    """
    is_damaged = documents["damage"].to_numpy() != "none"
    first = round(READ * len(documents))
    for order in ("nats_per_token", "self_influence_nats", "loss_per_token", "tokens"):
        values = documents[order].to_numpy().astype(float)
        is_read = np.zeros(len(values), bool)
        is_read[np.argsort(-values, kind="stable")[:first]] = True
        for kind in ("all", *DAMAGE):
            of_kind = is_damaged if kind == "all" else documents["damage"].to_numpy() == kind
            found = float(is_read[of_kind].mean())
            yield {
                "order": order, "damage": kind, "documents": int(of_kind.sum()),
                "auc": round(auc(values[of_kind], values[~is_damaged]), 3), "found": round(found, 3),
            }  # fmt: skip


def measured(study: Path) -> pl.DataFrame:
    """Return self-influence, loss, length and damage of every document of a study that is computed."""
    workspace = open_workspace(Study.load(study))
    documents, spans = (query(workspace.catalogue, sql) for sql in (DOCUMENTS, SPANS))
    by_sequence = losses(Versions(workspace))
    total: dict[int, list[float]] = {}
    for sequence, document, start, end in spans.iter_rows():
        total.setdefault(document, []).extend(by_sequence[sequence][max(1, start) : end].tolist())
    means = [float(np.mean(total[key])) if total.get(key) else 0.0 for key in documents["document_key"]]
    return documents.with_columns(loss_per_token=pl.Series(means))


def main() -> None:
    """Write the study, compute it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args()
    study = write_demo(given.folder, with_facts=False)
    text = study.read_text(encoding="utf-8")
    text += "\ncurvature:\n  modules: mlp\n"
    study.write_text(text, encoding="utf-8")
    if "self_influence" not in text:
        study.write_text(text.replace("scores:\n", "scores:\n  self_influence: true\n"), encoding="utf-8")
    damage(given.folder / CORPUS_FOLDER, given.seed)
    # Few questions: only what documents have to do with themselves is wanted.
    questions = given.folder / QUERIES_FOLDER / "questions.jsonl"
    questions.write_text("".join(questions.read_text(encoding="utf-8").splitlines(keepends=True)[:1]), encoding="utf-8")
    run_study(Study.load(study), console)
    documents = measured(study)
    documents.write_parquet(given.folder / "documents.parquet")
    with pl.Config(tbl_rows=-1):
        print(pl.DataFrame(list(figures(documents))))


if __name__ == "__main__":
    main()
