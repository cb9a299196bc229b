"""Tells methods apart by the demo's invented facts: how often is a document first that states what is asked?

    python -m benchmarks.planted_facts FOLDER --modules mlp

Writes the demo into the folder, computes it with these layers, and prints, for EK-FAC, the plain gradient product and
BM25, how many questions have a true document first, the mean of 1 / its rank, and the share of the true documents among
the first five. Beside it stands whether the model has learnt the facts: how many of the questions have their own answer
as the most probable of all answers. Nothing is fitted, and no question is left out.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from influence_assets.assets import open_workspace
from influence_assets.capture.likelihoods import log_probabilities
from influence_assets.capture.one_pass import measure
from influence_assets.capture.scores import ScoreTotals
from influence_assets.cli.console import console
from influence_assets.cli.study_runs import run_study
from influence_assets.demo.facts import FACT_QUESTIONS, fact_questions
from influence_assets.demo.retrieval import TRUE_DOCUMENTS, ranked
from influence_assets.demo.study import write_demo
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.engine.workspace import catalogue_path
from influence_assets.layouts import queries
from influence_assets.layouts.factors import bases_of, curvature_on
from influence_assets.layouts.model import label_sampler
from influence_assets.layouts.model import runner as load_runner
from influence_assets.layouts.queries import StoredQueries
from influence_assets.layouts.sequences import parts_of, shard_sequences, shared_sequences
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.catalogue import query
from influence_assets.study import Study

FIVE = 5
GRADIENT_PRODUCT = "gradient_dot"
DOCUMENT_OF_EACH_PART = "select sequence_id, document_id, document_key from sequence_documents"
DOCUMENT_OF_WHOLE_SEQUENCES = """
    select sequence_id, min(document_key) as document_key
    from sequence_documents
    group by sequence_id
    having min(document_key) = max(document_key)
"""
PLAIN = """
    select query_id, document_key, sum(influence_nats) as score
    from scores_with_noise_by_document
    group by query_id, document_key
"""


class Demo:
    """A computed demo.

    Args:
        study: the demo's study.
    """

    def __init__(self, study: Study) -> None:
        self.catalogue = catalogue_path(study)
        self._workspace = open_workspace(study)
        self._versions = Versions(self._workspace, "published")
        self._model = self._opened("language_model", Partition())
        self._runner = load_runner(self._workspace, self._model, lambda *_: None)

    def _opened(self, asset: str, partition: Partition) -> Artifact:
        key = self._versions.key(self._workspace.graph[asset], partition)
        assert key is not None, "compute the study first"
        return self._workspace.store.open(key)

    def likelihoods(self) -> NDArray[np.float64]:
        """Return the log-probability of every fact's answer after every fact's question, [question, answer]."""
        asked = fact_questions()
        prompts = [question.prompt for question in asked for _ in asked]
        answers = [answer.completion for _ in asked for answer in asked]
        tokenized = queries.tokenize(self._model, self._workspace, prompts, answers, answers)
        found = log_probabilities(self._runner.model, queries.as_sequences(tokenized))
        return found.reshape(len(asked), len(asked))

    def gradient_products(self) -> pl.DataFrame:
        """Return the plain gradient product of every question and document, split over parts as the influence is.

        Returns:
            Columns `query_id`, `document_key`, `score`.
        """
        every = Partition()
        layers = curvature_on(self._runner, self._opened("eigenbases", every), self._opened("curvature", every))
        stored = StoredQueries(
            self._opened("query_gradients", Partition(query_set=FACT_QUESTIONS)), self._runner, layers
        )
        sampler = label_sampler(self._workspace.study.curvature)
        of_parts, of_sequences = [], []
        for shard in self._workspace.shards:
            artifact = self._opened("token_sequences", Partition(shard=shard))
            sequences, shared = shard_sequences(artifact), shared_sequences(artifact)
            totals = ScoreTotals({}, len(sequences), stored.N, self._runner.device, parts_of(shared))
            totals.include(GRADIENT_PRODUCT, len(stored.query_ids), split=True)
            totals.hold(GRADIENT_PRODUCT, stored.layers(stored.all, GRADIENT_PRODUCT))
            measure(self._runner, sequences, [totals], bases_of(layers), sampler)
            keys, parts = pl.DataFrame({"sequence_id": sequences.keys}), shared.select("sequence_id", "document_id")
            of_sequences.append(_long(totals.totals()[GRADIENT_PRODUCT], stored.query_ids, keys))
            of_parts.append(_long(totals.part_totals(GRADIENT_PRODUCT), stored.query_ids, parts))
        names, whole = (query(self.catalogue, each) for each in (DOCUMENT_OF_EACH_PART, DOCUMENT_OF_WHOLE_SEQUENCES))
        parts = pl.concat(of_parts).join(names.unique(), on=["sequence_id", "document_id"])
        rows = [parts, pl.concat(of_sequences).join(whole, on="sequence_id")]
        both = pl.concat([each.select("query_id", "document_key", "score") for each in rows])
        return both.group_by("query_id", "document_key").agg(pl.col("score").sum())

    def items(self) -> pl.DataFrame:
        """Return what every method ranks for each question about a fact: documents, with `method`, `rank`, `is_true`.

        The passages of `ranked` are there too, under the name of the method and "of passages".
        """
        found = ranked(self.catalogue).filter(kind="fact")
        unit = pl.when(pl.col("unit") == "passage").then(pl.lit(" of passages")).otherwise(pl.lit(""))
        kept = found.with_columns(method=pl.col("method") + unit).select("method", "query_id", "rank", "is_true")
        truths = query(self.catalogue, TRUE_DOCUMENTS).with_columns(is_true=pl.lit(value=True))
        others = {GRADIENT_PRODUCT: self.gradient_products(), "ekfac, plain sums": query(self.catalogue, PLAIN)}
        rows = [
            scores.join(kept.select("query_id").unique(), on="query_id")
            .join(truths, on=["query_id", "document_key"], how="left")
            .with_columns(method=pl.lit(method), is_true=pl.col("is_true").fill_null(value=False))
            .with_columns(rank=pl.col("score").rank("ordinal", descending=True).over("query_id"))
            .select(kept.columns)
            for method, scores in others.items()
        ]
        return pl.concat([kept, *rows], how="vertical_relaxed")


def figures(items: pl.DataFrame) -> pl.DataFrame:
    """Return each method's figures over the questions.

    Args:
        items: columns `method`, `query_id`, `rank` (1 is the strongest) and `is_true`.

    Returns:
        Columns `method`, `questions`, `first` (number of questions with something true first), `reciprocal_rank` (mean
        of 1 / rank of the first true one) and `recall_at_five` (mean share of the true ones, of which at most five
        count, among the first five).
    """
    true_rank = pl.col("rank").filter("is_true")
    found, true = (true_rank <= FIVE).sum(), pl.col("is_true").sum().clip(1, FIVE)
    by_question = items.group_by("method", "query_id").agg(
        reciprocal_rank=(1 / true_rank.min()).fill_null(0.0), recall_at_five=found / true
    )
    return (
        by_question.group_by("method")
        .agg(
            questions=pl.len(),
            first=(pl.col("reciprocal_rank") == 1).sum(),
            reciprocal_rank=pl.col("reciprocal_rank").mean(),
            recall_at_five=pl.col("recall_at_five").mean(),
        )
        .sort("method")
    )


def learned(likelihoods: NDArray[np.float64]) -> str:
    """Return in words how far the model has learnt the facts.

    Args:
        likelihoods: log-probabilities in nats, [question, answer]; a question's own answer is on the diagonal.
    """
    own, count = np.diag(likelihoods), len(likelihoods)
    others = (likelihoods.sum(1) - own) / (count - 1)
    first = int((likelihoods.argmax(1) == np.arange(count)).sum())
    return (
        f"learned: {first} of {count} questions have their own answer as the most probable of all {count}; mean "
        f"log-probability {own.mean():.2f} nats, {(own - others).mean():.2f} above that of the other answers"
    )


def _long(scores: NDArray[np.float64], query_ids: list[str], of: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each question and row of `of`, with its score; scores are [question, row]."""
    rows = zip(query_ids, scores, strict=True)
    return pl.concat([of.with_columns(query_id=pl.lit(name), score=pl.Series(row)) for name, row in rows])


def main() -> None:
    """Write the study, compute it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--modules", default="mlp", help="which layers are attributed")
    given = parser.parse_args()
    study = write_demo(given.folder)
    study.write_text(f"{study.read_text(encoding='utf-8')}\ncurvature:\n  modules: {given.modules}\n", encoding="utf-8")
    loaded = Study.load(study)
    run_study(loaded, console)
    demo = Demo(loaded)
    print(learned(demo.likelihoods()))
    with pl.Config(tbl_rows=-1, tbl_cols=-1):
        print(figures(demo.items()))


if __name__ == "__main__":
    main()
