"""Whether what an ensemble is certain of is so: the signs of documents' influences against leaving each one out.

    python -m benchmarks.leave_one_out FOLDER --documents 48 --left-out 24 --seeds 5

A small GPT-2 is trained on some articles of CPython's manual, with a few members. Then some documents are left out, one
at a time, and the model is trained again with several seeds, with the loss of the document masked and everything else,
also the order of sequences, as with all documents. What a completion's log-probability falls by is the document's
measured influence; its standard error comes from the seeds.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.progress import track
from tokenizers import Tokenizer

from benchmarks.judged_study import HELD_OUT, questions_of
from influence_assets.assets import open_workspace
from influence_assets.assets.retraining import recipe_of
from influence_assets.capture.batches import Sequences
from influence_assets.capture.likelihoods import log_probabilities
from influence_assets.cli.console import console
from influence_assets.cli.study_runs import run_study
from influence_assets.demo.corpus import package_docstrings, write_corpus
from influence_assets.demo.files import write_rows, write_text
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.engine.workspace import catalogue_path
from influence_assets.layouts import queries
from influence_assets.layouts.retraining import DOCUMENT, Units, training_tokens
from influence_assets.models.loading import load_model
from influence_assets.models.training import train_language_model
from influence_assets.storage.catalogue import query
from influence_assets.study import Study, Training

WORDS = 120
QUESTIONS = 24
STUDY = """\
name: leave_one_out
corpus: {path: corpus}
model:
  train: {layers: 2, width: 64, heads: 2, vocabulary: 1024, epochs: 10, batch_sequences: 4, learning_rate: 0.004,
          members: 4}
sequences: {length: 192}
queries: {path: queries}
"""


def write(folder: Path, documents: int) -> Study:
    """Write the study: the beginnings of articles, and questions about them and about held-out text."""
    with TemporaryDirectory() as scratch:
        write_corpus(Path(scratch))
        lines = (Path(scratch) / "manual.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [" ".join(json.loads(line)["text"].split()[:WORDS]) for line in lines]
    drawn = np.random.default_rng(0).permutation(len(texts))[:documents]
    write_rows(folder / "corpus" / "manual.jsonl", [{"text": texts[number]} for number in sorted(drawn)])
    held_out = [document.text for package in HELD_OUT for document in package_docstrings(package)]
    for name, of, others in (("corpus", [texts[number] for number in drawn], ""), ("held_out", held_out, "")):
        write_rows(folder / "queries" / f"{name}.jsonl", list(questions_of(name, of, others, QUESTIONS)))
    return Study.load(write_text(folder / "study.yaml", STUDY))


class Retraining:
    """Trains the study's model again without a document, and asks it all questions."""

    def __init__(self, study: Study) -> None:
        versions = Versions(open_workspace(study), "published")
        graph, store = versions.workspace.graph, versions.workspace.store
        model_key = versions.key(graph["language_model"], Partition())
        assert model_key is not None, "the study has no model yet"
        self.study, self.model = study, store.open(model_key)
        self.tokenizer = Tokenizer.from_file(str(self.model.path("tokenizer") / "tokenizer.json"))
        asset = graph["token_sequences"]
        keys = [versions.key(asset, partition) for partition in versions.partitions(asset)]
        shards = [store.open(key) for key in keys if key is not None]
        self.tokens = training_tokens(shards)
        self.units = Units.of(DOCUMENT, shards, [])
        asked = [
            queries.read_tokenized(self.model, versions.workspace, file)
            for file in versions.workspace.query_sets.values()
        ]
        self.query_ids = [name for rows, _ in asked for name in rows["query_id"]]
        self._asked: Sequence[Sequences] = [queries.as_sequences(tokenized) for _, tokenized in asked]

    def outcomes(self, left_out: int | None, seed: int) -> NDArray[np.float64]:
        """Return the log-probability of every query, float64 [query]."""
        loss = np.ones(self.tokens.tokens.shape, np.uint8)
        if left_out is not None:
            for row, start, end in self.units.spans.filter(pl.col("unit") == left_out).select(
                "row", "token_start", "token_end"
            ).iter_rows():  # fmt: skip
                loss[row, start:end] = 0
        recipe = recipe_of(self.study, seed)
        assert isinstance(recipe, Training)
        with TemporaryDirectory() as scratch:
            trained = train_language_model(
                self.tokens.tokens, self.tokens.lengths, recipe,
                tokenizer=self.tokenizer, workspace=Path(scratch), progress=lambda _: None, loss_mask=loss,
            )  # fmt: skip
            model = load_model(trained.folder, dtype=self.study.model.dtype, device="cpu")
            return np.concatenate([log_probabilities(model, sequences) for sequences in self._asked])


def measure(study: Study, left_out: int, seeds: int) -> pl.DataFrame:
    """Return what leaving documents out changes: `query_id`, `document_id`, `measured_nats`, `standard_error_nats`."""
    retraining = Retraining(study)
    drawn = np.random.default_rng(1).permutation(len(retraining.units.names))[:left_out]
    whole = np.stack([retraining.outcomes(None, seed) for seed in range(1, seeds + 1)])
    tables = []
    for unit in track(drawn, description="left out"):
        falls = whole - np.stack([retraining.outcomes(int(unit), seed) for seed in range(1, seeds + 1)])
        tables.append(
            pl.DataFrame(
                {
                    "query_id": retraining.query_ids,
                    "document_id": retraining.units.names[unit],
                    "measured_nats": falls.mean(0),
                    "standard_error_nats": falls.std(0, ddof=1) / np.sqrt(seeds),
                }
            )
        )
    return pl.concat(tables)


def judged(study: Study, measured: pl.DataFrame) -> pl.DataFrame:
    """Return, by kind of question and by how many standard errors a change has, the share of right signs."""
    predicted = query(
        catalogue_path(study),
        "select query_id, query_set_id, document_id, influence_nats, is_certain from ensemble_by_document "
        "join queries using (query_id)",
    )
    both = measured.join(predicted, on=["query_id", "document_id"]).with_columns(
        errors=pl.col("measured_nats").abs() / pl.col("standard_error_nats"),
        is_right=pl.col("measured_nats").sign() == pl.col("influence_nats").sign(),
    )
    rows = []
    for errors in (0, 2, 4):
        for kind, pairs in [("all", both), *((str(k[0]), v) for k, v in both.group_by("query_set_id"))]:
            beyond = pairs.filter(pl.col("errors") > errors)
            certain = beyond.filter("is_certain")
            rows.append(
                {
                    "questions": kind, "standard_errors": errors, "pairs": beyond.height,
                    "right": beyond["is_right"].mean(), "certain": certain.height,
                    "right_of_certain": certain["is_right"].mean(),
                    "right_of_others": beyond.filter(~pl.col("is_certain"))["is_right"].mean(),
                }
            )  # fmt: skip
    return pl.DataFrame(rows).sort("questions", "standard_errors")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=48)
    parser.add_argument("--left-out", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    kept = asked.folder / f"left_out_{asked.left_out}_of_{asked.documents}_seeds_{asked.seeds}.parquet"
    study = write(asked.folder, asked.documents)
    run_study(study, console)
    if not kept.exists():
        measure(study, asked.left_out, asked.seeds).write_parquet(kept)
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=140):
        print(judged(study, pl.read_parquet(kept)))


if __name__ == "__main__":
    main()
