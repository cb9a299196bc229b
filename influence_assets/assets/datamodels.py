"""The asset `datamodels`: a linear model of each query's log-probability, fitted to the retrained models' outcomes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from influence_assets.assets.bank import DATAMODELS, SUBSET_PREDICTIONS, Bank, read_bank
from influence_assets.assets.grouped_corpus import Measured, group_scores, sequence_passes
from influence_assets.assets.method_rows import listed, write_scores
from influence_assets.assets.retraining import OfTrainedShards, recipe_of
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.layouts.retraining import SEQUENCE, reads_documents
from influence_assets.methods.method import ScoredMethod
from influence_assets.storage.artifacts import Artifact

if TYPE_CHECKING:
    from influence_assets.analysis.datamodels import Datamodels


METHOD = ScoredMethod(name=DATAMODELS, unit="relative_nats", check=lambda study: recipe_of(study, 0))


def _compute(work: Work) -> None:
    from influence_assets.analysis.datamodels import fitted

    bank = read_bank(work)
    models = fitted(bank.is_drawn, bank.outcomes.mean(0))
    by = work.study.evaluation.by
    seeds, _, subsets = bank.outcomes.shape
    trained = sum(int(model.manifest.summary["training_sequences"]) for model in work.open_all("retrained_models"))
    passes = sequence_passes(work.study, trained)
    if by == SEQUENCE:
        sequences = pl.DataFrame({"sequence_id": [int(name) for name in bank.units.names]})
        write_scores(work, bank.query_ids, sequences, models.weights, sequence_passes=passes)
    else:
        measured = Measured(models.weights, models.standard_errors, seeds * subsets, METHOD.unit or "")
        rows = group_scores(DATAMODELS, by, bank.query_ids, bank.units.names, measured)
        work.draft.table("group_scores", rows)
    work.draft.table(SUBSET_PREDICTIONS, _predictions(bank, models))
    work.draft.summarise(
        units=len(bank.units.names),
        subsets=subsets,
        queries=len(bank.query_ids),
        median_penalty=float(np.median(models.penalties)),
        sequence_passes=passes,
    )


def _predictions(bank: Bank, models: "Datamodels") -> pl.DataFrame:
    """Return what models without a subset's fold predict of it: `query_id`, `subset` and `predicted_nats`."""
    queries, subsets = models.predicted.shape
    return pl.DataFrame(
        {
            "query_id": [name for name in bank.query_ids for _ in range(subsets)],
            "subset": pl.Series(bank.subsets * queries, dtype=pl.Int32),
            "predicted_nats": models.predicted.reshape(-1),
        },
        schema_overrides={"query_id": pl.String},
    )


def _cost(_sizes: Any, _partition: Partition) -> Cost:
    return Cost(bytes=None)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {"in_short": f"Fitted to {figures['subsets']:,} subsets of {figures['units']:,} units."}


ASSET = AssetDefinition(
    name="datamodels",
    group="evaluation",
    description=(
        "A linear model of each query's log-probability, with one weight for each unit that subsets are drawn from, "
        "fitted to the outcomes of the retrained models; and its predictions of each subset by a fit without it, by "
        "which it is judged."
    ),
    kinds=frozenset({"numpy"}),
    inputs=("documents", "language_model", "token_sequences", "retrained_models"),
    uses=lambda study, name: name != "documents" or reads_documents(study.evaluation.by),
    code_version="1",
    settings=lambda study: {"seeds": study.evaluation.seeds, "by": study.evaluation.by},
    compute=_compute,
    frozen=OfTrainedShards(),
    on_request=True,
    is_requested=listed(DATAMODELS),
    only_by_settings=True,
    method=METHOD,
    holds_text=True,
    is_published=True,
    cost=CostModel(partition=_cost),
    shown=_shown,
)
