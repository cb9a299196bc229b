"""What methods share that train the model without groups of the corpus: the groups, their parts, rows and costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from influence_assets.corpus.subsets import part_of
from influence_assets.engine.definition import Work
from influence_assets.engine.partitions import Partition
from influence_assets.layouts.retraining import (
    DOCUMENT,
    SEQUENCE,
    SHARD,
    WITHOUT_A_VALUE,
    Units,
    reads_documents,
    training_tokens,
)
from influence_assets.study import Study
from influence_assets.training_tokens import TrainingTokens

if TYPE_CHECKING:
    from numpy.typing import NDArray


NATS = "nats"

GROUP_SCORES_SCHEMA = pl.Schema(
    {
        "method": pl.String, "unit": pl.String, "grouping": pl.String, "group_name": pl.String, "query_id": pl.String,
        "score": pl.Float64, "standard_error": pl.Float64, "models": pl.Int32,
    }
)  # fmt: skip


@dataclass(frozen=True)
class GroupedCorpus:
    """What the model was trained on, and the groups that it is divided into.

    Args:
        tokens: the sequences.
        units: the groups.
    """

    tokens: TrainingTokens
    units: Units

    @classmethod
    def of(cls, work: Work, by: str, key: str) -> "GroupedCorpus":
        """Return the corpus whose shards a partition reads.

        Args:
            work: the partition that is computed.
            by: what the groups are, as `Units.of` has it.
            key: the study's key that says so.

        Raises:
            InputError: no document has the column.
        """
        shards = work.open_all("token_sequences")
        documents = work.open_all("documents") if reads_documents(by) else []
        return cls(training_tokens(shards), Units.of(by, shards, documents, key=key))

    @property
    def names(self) -> Sequence[str]:
        """The groups' names, ascending."""
        return self.units.names

    def part(self, is_in: "NDArray[np.bool_]", *, keeps_sequences: bool = False) -> TrainingTokens:
        """Return the sequences with the loss of some groups alone.

        Args:
            is_in: bool [group].
            keeps_sequences: whether sequences without any loss stay.
        """
        return part_of(self.tokens, self.units.is_kept(is_in), keeps_sequences=keeps_sequences)


class Measured(NamedTuple):
    """What groups do for queries.

    Args:
        scores: float64 [query, group].
        standard_errors: as `scores`; NaN where they are not known.
        models: how many models they come from.
        unit: the unit of scores and errors.
    """

    scores: "NDArray[np.float64]"
    standard_errors: "NDArray[np.float64]"
    models: int
    unit: str = NATS


def group_scores(
    method: str, grouping: str, query_ids: Sequence[str], names: Sequence[str], measured: Measured
) -> pl.DataFrame:
    """Return rows of the table `group_scores`.

    Args:
        method: the method's name.
        grouping: what the groups are.
        query_ids: the queries.
        names: the groups.
        measured: their scores.
    """
    groups = len(names)
    rows = pl.DataFrame(
        {
            "group_name": list(names) * len(query_ids),
            "query_id": [name for name in query_ids for _ in range(groups)],
            "score": measured.scores.reshape(-1),
            "standard_error": measured.standard_errors.reshape(-1),
        },
        schema_overrides={"group_name": pl.String, "query_id": pl.String},
    )
    return rows.with_columns(
        pl.col("standard_error").fill_nan(None),
        method=pl.lit(method),
        unit=pl.lit(measured.unit),
        grouping=pl.lit(grouping),
        models=pl.lit(measured.models, pl.Int32),
    ).select(GROUP_SCORES_SCHEMA.names())


def count_groups(sizes: Any, by: str) -> int | None:
    """Return how many groups the corpus has; None if that is not known before it is read.

    Args:
        sizes: the study's sizes (`assets.study_sizes.StudySizes`).
        by: what the groups are.
    """
    if by == SHARD:
        return int(sizes.shards)
    if by == SEQUENCE:
        return int(sizes.all_sequences())
    asset, versions = sizes.versions.workspace.graph["documents"], sizes.versions
    found: set[str] = set()
    for shard in versions.workspace.shards:
        key = versions.key(asset, Partition(shard=shard))
        if key is None or not versions.holds(key):
            return None
        found |= _names(versions.workspace.store.open(key).table("documents"), by)
    return len(found)


def _names(documents: pl.LazyFrame, by: str) -> set[str]:
    if by == DOCUMENT:
        return set(documents.select("document_id").collect()["document_id"])
    if by in documents.collect_schema():
        values = documents.select(name=pl.col(by).cast(pl.String))
    else:
        values = documents.select(name=pl.col("metadata").str.json_path_match(f"$['{by}']"))
    return {WITHOUT_A_VALUE if value is None else str(value) for value in values.collect()["name"]}


def sequence_passes(study: Study, training_sequences: int) -> float:
    """Return the forward and backward passes of single sequences that trainings took.

    Args:
        study: the study.
        training_sequences: the sequences of all trainings together.
    """
    recipe = study.model.train or study.model.tuned
    return 0.0 if recipe is None else float(recipe.epochs * training_sequences)
