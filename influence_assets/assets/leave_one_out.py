"""The asset `leave_one_out`: how much each query's log-probability falls when a group of the corpus is left out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from influence_assets.assets.grouped_corpus import Measured, group_scores, sequence_passes
from influence_assets.assets.leave_one_out_options import LEAVE_ONE_OUT, LeaveOneOut
from influence_assets.assets.method_rows import listed
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown, Table
from influence_assets.methods.registry import given_settings, options_of
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study

PAIRED = "tsloo"
"""The name in tables of differences that are taken seed by seed."""

ROWS_SHOWN = 10


def _compute(work: Work) -> None:
    from influence_assets.analysis.leaving_out import leave_one_out, paired_leave_one_out

    options: LeaveOneOut = options_of(work.study, LEAVE_ONE_OUT)
    models = [model for model in work.open_all("left_out_models") if "is_missing" not in model.manifest.summary]
    query_ids = models[0].table("left_out_outcomes").select("query_id").collect()["query_id"].to_list()
    outcomes = _outcomes(models)
    everything = outcomes.pop(None)
    compare, method = (paired_leave_one_out, PAIRED) if options.same_order else (leave_one_out, LEAVE_ONE_OUT.name)
    changes = {group: compare(everything, without) for group, without in sorted(outcomes.items(), key=str)}
    none = np.zeros((len(query_ids), 0))
    measured = Measured(
        np.stack([change.mean for change in changes.values()], axis=1) if changes else none,
        np.stack([change.standard_errors for change in changes.values()], axis=1) if changes else none,
        models=2 * len(everything),
    )
    rows = group_scores(method, options.by, query_ids, list(map(str, changes)), measured)
    work.draft.table("group_scores", rows)
    work.draft.table("changes_by_seed", _by_seed(query_ids, everything, outcomes))
    trained = sum(int(model.manifest.summary["training_sequences"]) for model in models)
    work.draft.summarise(
        groups=len(changes),
        seeds=len(everything),
        models=len(models),
        queries=len(query_ids),
        sequence_passes=sequence_passes(work.study, trained),
    )


def _outcomes(models: list[Artifact]) -> dict[str | None, NDArray[np.float64]]:
    """Return the log-probabilities without each group, or without none, float64 [seed, query]; seeds ascend."""
    found: dict[str | None, dict[int, NDArray[np.float64]]] = {}
    for model in models:
        log_p = model.table("left_out_outcomes").select("log_probability_nats").collect()
        of_group = found.setdefault(model.manifest.summary["group"], {})
        of_group[int(model.manifest.summary["seed"])] = log_p["log_probability_nats"].to_numpy()
    return {group: np.stack([of_seeds[seed] for seed in sorted(of_seeds)]) for group, of_seeds in found.items()}


def _by_seed(
    query_ids: list[str], everything: NDArray[np.float64], outcomes: Mapping[str | None, NDArray[np.float64]]
) -> pl.DataFrame:
    """Return the difference between the models of each seed: `group_name`, `seed`, `query_id`, `change_nats`."""
    frames = [
        pl.DataFrame({"query_id": query_ids, "change_nats": of_seed}).select(
            pl.lit(group).alias("group_name"), pl.lit(seed, pl.Int32).alias("seed"), "query_id", "change_nats"
        )
        for group, without in outcomes.items()
        for seed, of_seed in enumerate(everything - without, start=1)
    ]
    schema = {"group_name": pl.String, "seed": pl.Int32, "query_id": pl.String, "change_nats": pl.Float64}
    return pl.concat([pl.DataFrame(schema=schema), *frames])


def _settings(study: Study) -> Mapping[str, Any]:
    return given_settings(study, LEAVE_ONE_OUT)


def _cost(_sizes: Any, _partition: Partition) -> Cost:
    return Cost(bytes=None)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    rows = artifact.table("group_scores").sort(pl.col("score").abs(), descending=True).head(ROWS_SHOWN)
    return {"largest": Table(rows.select("query_id", "group_name", "score", "standard_error").collect())}


ASSET = AssetDefinition(
    name="leave_one_out",
    group="evaluation",
    description=(
        "By how much each query's log-probability is higher under models of the whole corpus than under models without "
        "a group of it, in nats, with the standard error from the spread between seeds."
    ),
    kinds=frozenset({"polars"}),
    inputs=("left_out_models",),
    code_version="1",
    settings=_settings,
    compute=_compute,
    on_request=True,
    is_requested=listed(LEAVE_ONE_OUT.name),
    only_by_settings=True,
    method=LEAVE_ONE_OUT,
    holds_text=True,
    is_published=True,
    cost=CostModel(partition=_cost),
    shown=_shown,
)
