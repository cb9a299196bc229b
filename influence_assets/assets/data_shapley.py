"""The asset `data_shapley`: what each group of the corpus adds to a model, averaged over orders of arrival.

Which subsets are trained on is drawn as it goes, so that they are no partitions of their own. What a model says is kept
as soon as it is trained: a killed run loses nothing but the training that it was in, and options that ask for more
orders find the models of fewer ones.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from influence_assets.assets.grouped_corpus import GroupedCorpus, Measured, count_groups, group_scores, sequence_passes
from influence_assets.assets.method_rows import listed
from influence_assets.assets.retraining import (
    OfTrainedShards,
    questions,
    recipe_of,
    tokenized_queries,
    trained_outcomes,
    training_cost,
    training_memory,
    untrained_outcomes,
)
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown, Table
from influence_assets.layouts.retraining import reads_documents
from influence_assets.methods.method import MethodOptions, ScoredMethod
from influence_assets.methods.registry import given_settings, options_of
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.drafts import Draft
from influence_assets.study import LARGEST_SEED, Study

if TYPE_CHECKING:
    from influence_assets.analysis.data_shapley import ShapleyValues

BY_KEY = "method_options.data_shapley.by"
ROWS_SHOWN = 10

_TABLE, _TRAINED_AS = "subset_outcomes", "trained_as"
_SUBSETS_SCHEMA = pl.Schema(
    {
        "groups": pl.List(pl.Int32()),
        "seed": pl.Int32(),
        "training_sequences": pl.Int32(),
        "log_probabilities_nats": pl.List(pl.Float64()),
    }
)
_ALL_SUBSETS = 24
"""With more groups, subsets are not worth counting: no number of orders meets them all."""


_Place = tuple[tuple[int, ...], int]
"""The numbers of a subset's groups, and that of the seed."""


class DataShapley(MethodOptions):
    """The options of `data_shapley`.

    Attributes:
        by: what the groups are: `document`, `shard`, or the name of a column of the corpus.
        permutations: the most orders of arrival.
        tolerance: an order is cut off once all queries are within this share of their log-probability under models of
            everything, several times in a row.
        largest_change: no more orders are drawn once the values change by less than this share, from 100 orders on.
        seeds: models of each subset.
        seed: seed of the orders.
    """

    by: str = Field("source", min_length=1)
    permutations: int = Field(1000, ge=1)
    tolerance: float = Field(0.01, ge=0, allow_inf_nan=False)
    largest_change: float = Field(0.05, ge=0, allow_inf_nan=False)
    seeds: int = Field(2, ge=1)
    seed: int = Field(0, ge=0, le=LARGEST_SEED)


DATA_SHAPLEY = ScoredMethod(
    name="data_shapley", unit="nats", options=DataShapley, check=lambda study: recipe_of(study, 0)
)


class _Outcomes:
    """The outcomes of models of subsets: those that are kept already, and others by training.

    Args:
        work: the partition that is computed.
        corpus: the corpus and its groups.
        options: the options.
    """

    def __init__(self, work: Work, corpus: GroupedCorpus, options: DataShapley) -> None:
        self._work, self._corpus, self._options = work, corpus, options
        self._trained_as = _digest(work, options.by)
        self._rows = _kept(work, self._trained_as)
        self._used: set[_Place] = set()
        self.kept = len(self._rows)
        self.orders = 0

    def __call__(self, groups: frozenset[int]) -> NDArray[np.float64]:
        """Return the log-probabilities under the models of some groups, float64 [seed, query]."""
        return np.stack([self._of(groups, seed) for seed in range(1, self._options.seeds + 1)])

    def _of(self, groups: frozenset[int], seed: int) -> NDArray[np.float64]:
        place = tuple(sorted(groups)), seed
        self._used.add(place)
        if place not in self._rows:
            before = f"{_TABLE} {len(self._rows)}"
            self._rows[place] = self._trained(groups, seed)
            part = f"{_TABLE} {len(self._rows)}"
            self._work.checkpoints.save(len(self._work.inputs), self.write, part, replaces=before)
            self._work.progress(self.orders, self._options.permutations)
        return self._rows[place][1]

    def _trained(self, groups: frozenset[int], seed: int) -> tuple[int, NDArray[np.float64]]:
        part = self._corpus.part(np.isin(np.arange(len(self._corpus.names)), list(groups)))
        if len(part.tokens):
            outcomes, _ = trained_outcomes(self._work, part, seed)
        else:  # nothing, or groups of which no token carries a loss
            outcomes = untrained_outcomes(self._work, seed, context=self._corpus.tokens.tokens.shape[1])
        return len(part.tokens), outcomes["log_probability_nats"].to_numpy()

    def write(self, draft: Draft) -> None:
        """Write all outcomes that are known."""
        places, found = list(self._rows), list(self._rows.values())
        columns = [[place[0] for place in places], [place[1] for place in places], [n for n, _ in found],
                   [log_p.tolist() for _, log_p in found]]  # fmt: skip
        draft.table(_TABLE, pl.DataFrame(dict(zip(_SUBSETS_SCHEMA, columns, strict=True)), schema=_SUBSETS_SCHEMA))
        draft.summarise(**{_TRAINED_AS: self._trained_as})

    @property
    def models(self) -> int:
        """The number of trained models whose outcomes were asked for."""
        return sum(self._rows[place][0] > 0 for place in self._used)

    @property
    def training_sequences(self) -> int:
        """The sequences that all of them were trained on."""
        return sum(self._rows[place][0] for place in self._used)


def _digest(work: Work, by: str) -> str:
    """Return a hash of all that outcomes depend on beside the inputs: neither how many orders, nor when they end."""
    described = {"code": ASSET.code_version, "by": by, "dtype": work.study.model.dtype}
    described |= questions(work.workspace, work.partition)
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


def _kept(work: Work, trained_as: str) -> dict[_Place, tuple[int, NDArray[np.float64]]]:
    """Return the outcomes that artifacts with the same inputs hold, finished ones and those of killed runs.

    Returns:
        For each subset and seed the number of training sequences, and the log-probabilities.
    """
    kept = {}
    for manifest in work.workspace.store.manifests(work.key.asset, work.key.partition):
        if manifest.inputs != work.inputs or manifest.summary.get(_TRAINED_AS) != trained_as:
            continue
        for row in work.workspace.store.open(manifest.key).table(_TABLE).collect().iter_rows(named=True):
            log_p = np.array(row["log_probabilities_nats"])
            kept[tuple(row["groups"]), int(row["seed"])] = int(row["training_sequences"]), log_p
    return kept


def _compute(work: Work) -> None:
    from influence_assets.analysis.data_shapley import Limits, data_shapley

    recipe_of(work.study, 0)  # refuses a model that cannot be trained again before anything is read
    options: DataShapley = options_of(work.study, DATA_SHAPLEY)
    corpus = GroupedCorpus.of(work, options.by, BY_KEY)
    outcomes = _Outcomes(work, corpus, options)

    def progress(done: int, most: int) -> None:
        outcomes.orders = done
        work.progress(done, most)

    limits = Limits(options.tolerance, options.largest_change, options.permutations)
    values = data_shapley(outcomes, len(corpus.names), seed=options.seed, limits=limits, progress=progress)
    query_ids = [name for ids, _ in tokenized_queries(work) for name in ids]
    measured = Measured(values.values, values.standard_errors, outcomes.models)
    rows = group_scores(DATA_SHAPLEY.name, options.by, query_ids, corpus.names, measured)
    work.draft.table("group_scores", rows)
    outcomes.write(work.draft)
    _summarise(work, values, outcomes)


def _summarise(work: Work, values: "ShapleyValues", outcomes: _Outcomes) -> None:
    options: DataShapley = options_of(work.study, DATA_SHAPLEY)
    settled = values.largest_change < options.largest_change
    note = (
        f"The values had not settled after {values.permutations:,} orders of arrival: their last mean relative change "
        f"is {values.largest_change:.2g}, and the bound is {options.largest_change:g}. Raise "
        "method_options.data_shapley.permutations; models that are trained are used again."
    )
    work.draft.summarise(
        groups=values.values.shape[1],
        queries=values.values.shape[0],
        permutations=values.permutations,
        models=outcomes.models,
        models_from_before=outcomes.kept,
        largest_change=values.largest_change if np.isfinite(values.largest_change) else None,
        truncated_share=values.truncated_share,
        everything_nats=float((values.everything - values.nothing).sum()),
        cut_off_nats=float(values.cut_off.sum()),
        sequence_passes=sequence_passes(work.study, outcomes.training_sequences),
        **({} if settled else {"notes": [note]}),
    )


def most_trainings(groups: int, permutations: int) -> int:
    """Return how many subsets can be trained on at most: all but the empty one, or those that the orders meet."""
    met = permutations * (groups - 1) + 1
    return met if groups > _ALL_SUBSETS else min(2**groups - 1, met)


def _cost(sizes: Any, _partition: Partition) -> Cost:
    options: DataShapley = options_of(sizes.study, DATA_SHAPLEY)
    groups = count_groups(sizes, options.by)
    if groups is None:
        return Cost(bytes=None)
    one = training_cost(sizes, 0.5)  # an order's subsets have half of the groups on average
    trainings = options.seeds * most_trainings(groups, options.permutations)
    return Cost(one.operations * trainings, None, one.amount * trainings)


def _settings(study: Study) -> Mapping[str, Any]:
    return {"dtype": study.model.dtype, **given_settings(study, DATA_SHAPLEY)}


def _uses(study: Study, name: str) -> bool:
    by = study.method_options.get(DATA_SHAPLEY.name, {}).get("by", DataShapley().by)
    return name != "documents" or reads_documents(str(by))


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    rows = artifact.table("group_scores").sort(pl.col("score").abs(), descending=True).head(ROWS_SHOWN)
    return {
        "in_short": f"{figures['permutations']:,} orders of {figures['groups']:,} groups, from "
        f"{figures['models']:,} models.",
        "largest": Table(rows.select("query_id", "group_name", "score", "standard_error").collect()),
    }


ASSET = AssetDefinition(
    name="data_shapley",
    group="evaluation",
    description=(
        "What each group of the corpus adds to each query's log-probability, averaged over the orders in which groups "
        "can arrive, by truncated Monte Carlo. The groups' values sum to what training on everything adds. Trains "
        "models of many subsets."
    ),
    kinds=frozenset({"torch"}),
    inputs=("documents", "language_model", "token_sequences"),
    reads=("questions",),
    uses=_uses,
    code_version="1",
    settings=_settings,
    source_content=questions,
    compute=_compute,
    frozen=OfTrainedShards(),
    on_request=True,
    is_requested=listed(DATA_SHAPLEY.name),
    only_by_settings=True,
    method=DATA_SHAPLEY,
    holds_text=True,
    is_published=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=training_memory, like="language_model"),
    shown=_shown,
    hidden=frozenset({_TRAINED_AS}),
    source_change=lambda _workspace, _partition, _last: "the queries changed",
)
