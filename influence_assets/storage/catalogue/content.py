"""The content that a catalogue should have, the versions that identify it, and the changes that a load makes."""

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
_HASHED = ("shard_id", "document_id", "reason")
"""The columns of tombstones that the content's version covers."""
STATES = pl.Schema(
    {name: pl.String() for name in ("asset", "partition", "state", "data_version", "standing_data_version", "cause")}
)


@dataclass(frozen=True)
class CatalogueContent:
    """The content that the catalogue should have.

    Args:
        study: the study's name.
        current_generation: the generation that the views show, or None if there is none yet.
        artifacts: the artifacts whose tables are loaded, in any order; the loader finds what they were computed from.
        tombstones: rows of the table of that name.
        states: rows of `partition_states`.
        holding_text: the assets whose artifacts hold text, tokens or scores of single sequences.
        members: the generations of the ensemble's further models, each with the model's number, from 1.
    """

    study: str
    current_generation: int | None
    artifacts: Sequence[ArtifactKey]
    tombstones: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=TOMBSTONES))
    states: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=STATES))
    holding_text: frozenset[str] = frozenset()
    members: Mapping[int, int] = field(default_factory=dict)

    @cached_property
    def version(self) -> str:
        """Hash of everything except the states, which change while the rows that people query stay the same."""
        numbers = sorted({key.materialization_id for key in self.artifacts})
        # A tombstone's date does not count: two catalogues that differ only in dates have the same content.
        tombstones = digest(self.tombstones, pl.Schema({name: TOMBSTONES[name] for name in _HASHED}))
        members = sorted(self.members.items())
        parts = [self.study, schema_version(), self.current_generation, numbers, tombstones, members]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    @cached_property
    def standing(self) -> "Standing":
        """The versions that a catalogue with this content records about itself."""
        return Standing(schema_version(), self.version, digest(self.states, STATES))


@dataclass(frozen=True)
class Standing:
    """The versions that a published catalogue records about itself.

    Args:
        schema_version: hash of the statements that created it.
        content_version: see `CatalogueContent.version`.
        states_version: hash of `partition_states`.
    """

    schema_version: str
    content_version: str
    states_version: str


@dataclass(frozen=True)
class CatalogueChange:
    """The changes that a load made.

    Args:
        loaded: number of artifacts whose rows were inserted.
        removed: number of artifacts whose rows were deleted.
        unchanged: number of artifacts whose rows were kept.
        content_version: hash of the catalogue's content now.
        rows: number of rows inserted into each table.
        seconds: how long the load took.
    """

    loaded: int
    removed: int
    unchanged: int
    content_version: str
    rows: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def digest(frame: pl.DataFrame, schema: pl.Schema) -> str:
    """Return the hash of a frame's rows, whatever their order."""
    rows = as_rows(frame, schema).sort(schema.names(), nulls_last=True)
    return hashlib.sha256(rows.write_ndjson().encode()).hexdigest()[:32]


def as_rows(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Return the schema's columns of a frame, in the schema's order and types."""
    return frame.select(schema.names()).cast(schema)
