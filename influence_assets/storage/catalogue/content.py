"""What a catalogue shall hold, what a load changed, and how the two are told apart from what stands."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.storage.catalogue.statements import schema_version

TOMBSTONES = pl.Schema(
    {
        **{name: pl.String() for name in ("shard_id", "document_id", "reason")},
        "removed_at": pl.Datetime("us", "UTC"),
    }
)
_ASKED_FOR = ("shard_id", "document_id", "reason")
STATES = pl.Schema(
    {name: pl.String() for name in ("asset", "partition", "state", "data_version", "standing_data_version", "cause")}
)


@dataclass(frozen=True)
class CatalogueContent:
    """What the catalogue shall hold.

    Args:
        study: the study's name.
        current_generation: the generation that the views show, None where there is none yet.
        artifacts: whose tables are loaded, in any order; what they were computed from is found by the loader.
        tombstones: rows of the table of that name.
        states: rows of `partition_states`.
        holding_text: the assets whose artifacts hold text, tokens or scores of single sequences.
    """

    study: str
    current_generation: int | None
    artifacts: Sequence[ArtifactKey]
    tombstones: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=TOMBSTONES))
    states: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=STATES))
    holding_text: frozenset[str] = frozenset()

    @cached_property
    def version(self) -> str:
        """Hash of all of this but the states, which change while the rows that people ask for stay as they are."""
        numbers = sorted({key.materialization_id for key in self.artifacts})
        # Without their dates: those are remembered, not asked for, and must not make a catalogue another one.
        tombstones = digest(self.tombstones, pl.Schema({name: TOMBSTONES[name] for name in _ASKED_FOR}))
        parts = [self.study, schema_version(), self.current_generation, numbers, tombstones]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    @cached_property
    def standing(self) -> "Standing":
        """What a catalogue that holds this says of itself."""
        return Standing(schema_version(), self.version, digest(self.states, STATES))


@dataclass(frozen=True)
class Standing:
    """What a published catalogue says that it holds.

    Args:
        schema_version: of the statements that made it.
        content_version: see `CatalogueContent.version`.
        states_version: hash of `partition_states`.
    """

    schema_version: str
    content_version: str
    states_version: str


@dataclass(frozen=True)
class CatalogueChange:
    """What a load changed.

    Args:
        loaded: artifacts whose rows are new.
        removed: artifacts whose rows went.
        unchanged: artifacts whose rows stayed as they were.
        content_version: hash of what the catalogue now holds.
        rows: rows inserted into each table.
        seconds: how long it took.
    """

    loaded: int
    removed: int
    unchanged: int
    content_version: str
    rows: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def digest(frame: pl.DataFrame, schema: pl.Schema) -> str:
    """Hash of a frame's rows in any order."""
    rows = as_rows(frame, schema).sort(schema.names(), nulls_last=True)
    return hashlib.sha256(rows.write_ndjson().encode()).hexdigest()[:32]


def as_rows(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """The columns that the schema asks for, in its order and types."""
    return frame.select(schema.names()).cast(schema)
