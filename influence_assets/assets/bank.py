"""The bank: the outcomes of all models that were trained again on random subsets of the corpus."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from influence_assets.engine.definition import Work
from influence_assets.errors import InputError
from influence_assets.layouts.retraining import Units, reads_documents
from influence_assets.storage.artifacts import Artifact

DATAMODELS = "datamodels"
"""The method that is fitted to the bank."""

SUBSET_PREDICTIONS = "subset_predictions"
"""The table of a method that is fitted to the bank: `query_id`, `subset` and `predicted_nats`, by a fit without it."""

FEWEST_SUBSETS = 4
"""The rank correlation of fewer numbers says nothing, and nothing can be fitted to them."""


@dataclass(frozen=True)
class Bank:
    """The outcomes of the retrained models whose subset has all seeds.

    Args:
        query_ids: the queries.
        outcomes: float64 [seed, query, subset], in nats.
        is_drawn: bool [unit, subset].
        units: the units.
        subsets: the number of each subset.
    """

    query_ids: list[str]
    outcomes: NDArray[np.float64]
    is_drawn: NDArray[np.bool_]
    units: Units
    subsets: list[int]


def read_bank(work: Work) -> Bank:
    """Return the outcomes of all complete subsets that a work reads.

    Raises:
        InputError: there are too few retrained models.
    """
    found: dict[int, dict[int, Artifact]] = {}
    for artifact in work.open_all("retrained_models"):
        figures = artifact.manifest.summary
        found.setdefault(int(figures["subset"]), {})[int(figures["seed"])] = artifact
    seeds = work.study.evaluation.seeds
    complete = {subset: models for subset, models in sorted(found.items()) if len(models) == seeds}
    if len(complete) < FEWEST_SUBSETS:
        raise InputError(
            "evaluation",
            f"{len(complete)} subsets have models of all {seeds} seeds, and judging takes {FEWEST_SUBSETS}",
            "Train more with `influence evaluate`.",
        )
    models = [[of_subset[seed] for of_subset in complete.values()] for seed in range(1, seeds + 1)]
    query_ids = models[0][0].table("outcomes").select("query_id").collect()["query_id"].to_list()
    outcomes = np.stack([np.stack([_of(model) for model in of_seed], axis=1) for of_seed in models])
    units = _units(work)
    left_out = [set(model.table("left_out").collect()["unit"]) for model in models[0]]
    is_drawn = np.array([[unit not in names for names in left_out] for unit in units.names])
    return Bank(query_ids, outcomes, is_drawn, units, list(complete))


def _of(model: Artifact) -> NDArray[np.float64]:
    return model.table("outcomes").select("log_probability_nats").collect()["log_probability_nats"].to_numpy()


def trained_shards(work: Work) -> list[Artifact]:
    """Return the token sequences that the retrained models were drawn from."""
    model = work.open_all("retrained_models")[0].manifest
    return [work.workspace.store.open(key) for key in model.inputs if key.asset == "token_sequences"]


def _units(work: Work) -> Units:
    by = work.study.evaluation.by
    documents = work.open_all("documents") if reads_documents(by) else []
    return Units.of(by, trained_shards(work), documents)
