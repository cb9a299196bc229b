"""What a study's model was trained on, as one set of sequences, and the units that subsets are drawn from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from influence_assets.errors import InputError
from influence_assets.layouts.sequences import LOSS
from influence_assets.storage.artifacts import Artifact
from influence_assets.training_tokens import TrainingTokens

SEQUENCE, DOCUMENT, SHARD = "sequence", "document", "shard"
WITHOUT_A_VALUE = "(none)"


def training_tokens(shards: Sequence[Artifact]) -> TrainingTokens:
    """Return the sequences of all shards, in their order, as the model's own training reads them.

    Args:
        shards: artifacts of `token_sequences`.
    """
    tokens, lengths = (np.concatenate([shard.array(name) for shard in shards]) for name in ("tokens", "lengths"))
    loss = None
    if any(LOSS in shard.array_names() for shard in shards):
        loss = np.concatenate([_loss(shard) for shard in shards])
    return TrainingTokens(tokens, lengths, loss)


def _loss(shard: Artifact) -> NDArray[np.uint8]:
    return shard.array(LOSS) if LOSS in shard.array_names() else np.ones(shard.array("tokens").shape, np.uint8)


@dataclass(frozen=True)
class Units:
    """The units that subsets of the corpus are drawn from.

    Args:
        names: sequence ids, document ids, shards or values of a column, ascending.
        spans: columns `row` (a sequence's number over all shards), `sequence_id`, `document_id`, `token_start`,
            `token_end` and `unit` (a number in `names`); they cover every token.
        sequences: the number of sequences.
        length: the tokens of a sequence.
    """

    names: Sequence[str]
    spans: pl.DataFrame
    sequences: int
    length: int

    @classmethod
    def of(
        cls, by: str, shards: Sequence[Artifact], documents: Sequence[Artifact], *, key: str = "evaluation.by"
    ) -> "Units":
        """Return the units of the corpus.

        Args:
            by: `sequence`, `document`, `shard`, or the name of a column of the corpus.
            shards: artifacts of `token_sequences`.
            documents: artifacts of `documents` of the same shards; needed for a column only.
            key: the study's key that names the column.

        Raises:
            InputError: no document has the column.
        """
        sequences = pl.concat(shard.table("sequences").select("sequence_id") for shard in shards)
        sequences = sequences.with_row_index("row")
        spans = pl.concat(shard.table("sequence_documents") for shard in shards).join(sequences, on="sequence_id")
        if by == SEQUENCE:
            named = spans.with_columns(name=pl.col("sequence_id"))
        elif by == DOCUMENT:
            named = spans.with_columns(name=pl.col("document_id"))
        else:
            shard_of = pl.concat(
                shard.table("sequences").select("sequence_id", shard=pl.lit(shard.manifest.key.partition))
                for shard in shards
            )
            named = spans.join(shard_of, on="sequence_id")
            if by == SHARD:
                named = named.with_columns(name=pl.col("shard"))
            else:
                named = named.join(_values(by, documents, key), on=["shard", "document_id"], how="left")
        found = named.select("row", "sequence_id", "document_id", "token_start", "token_end", "name").collect()
        names = found["name"].unique().sort()
        numbers = pl.DataFrame({"name": names, "unit": np.arange(len(names))})
        length = shards[0].array("tokens").shape[1]
        rows = found.join(numbers, on="name", nulls_equal=True).drop("name").sort("row", "token_start")
        return cls([str(name) for name in names], rows, int(sequences.select(pl.len()).collect().item()), length)

    def is_kept(self, is_drawn: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which tokens belong to the drawn units, bool [sequence, token].

        Args:
            is_drawn: bool [unit].
        """
        row, start, end, unit = (
            self.spans[name].to_numpy().astype(np.int64) for name in ("row", "token_start", "token_end", "unit")
        )
        tokens = end - start
        before = np.cumsum(tokens) - tokens  # tokens of the spans before each
        places = np.repeat(row * self.length + start - before, tokens) + np.arange(tokens.sum())
        kept = np.zeros(self.sequences * self.length, np.bool_)
        kept[places] = np.repeat(is_drawn[unit], tokens)
        return kept.reshape(self.sequences, self.length)


def reads_documents(by: str) -> bool:
    """Return whether units by this name are known from columns of `documents` only."""
    return by not in (SEQUENCE, DOCUMENT, SHARD)


def _values(column: str, documents: Sequence[Artifact], key: str) -> pl.LazyFrame:
    """Return the value of a column of the corpus for each document of a shard: the same text may have two."""
    rows = pl.concat(
        artifact.table("documents").with_columns(shard=pl.lit(artifact.manifest.key.partition))
        for artifact in documents
    ).collect()
    if column in rows.columns:
        values = rows[column].to_list()
    else:
        values = [json.loads(metadata or "{}").get(column) for metadata in rows["metadata"]]
    if all(value is None for value in values):
        raise InputError(key, f"no document has the column {column!r}", "Name a column of the corpus.")
    names = [WITHOUT_A_VALUE if value is None else str(value) for value in values]
    return rows.select("shard", "document_id").with_columns(name=pl.Series(names, dtype=pl.String)).lazy()
