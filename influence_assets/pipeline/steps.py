"""What a step is: a named computation over partitions, and what it is handed when it runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import polars as pl

from influence_assets.errors import StorageError
from influence_assets.pipeline.workspace import Workspace
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.drafts import Draft
from influence_assets.storage.manifest import ArtifactKey
from influence_assets.study import Study

Partitioning = Literal["none", "shard", "query_set", "pair"]
PAIR_SEPARATOR = "|"
"""Between query set and shard in the partition key of a pair: the order and the mark are Dagster's."""

Progress = Callable[[int, int | None], None]
"""Told how many sequences (or steps) are done, of how many if known."""


@dataclass(frozen=True)
class Partition:
    """What a partition of a step is about: a shard, a query set, both or neither."""

    shard: str | None = None
    query_set: str | None = None

    @property
    def key(self) -> str | None:
        """The partition's key, as Dagster writes it; None where the step has no partitions."""
        if self.shard is not None and self.query_set is not None:
            return f"{self.query_set}{PAIR_SEPARATOR}{self.shard}"
        return self.shard if self.query_set is None else self.query_set

    @classmethod
    def parse(cls, partitioning: Partitioning, key: str | None) -> "Partition":
        """The partition that a key of a step with this partitioning names."""
        if partitioning == "pair" and key is not None:
            query_set, shard = key.split(PAIR_SEPARATOR, 1)
            return cls(shard, query_set)
        return cls(shard=key) if partitioning == "shard" else cls(query_set=key)


@dataclass(frozen=True)
class Work:
    """One partition of one step, about to be computed.

    Args:
        workspace: the study and its store.
        partition: what it is about.
        key: what it will be in the store.
        inputs: the artifacts that it is computed from.
        draft: where its results go.
        progress: to be told how far it is.
        states: looks up how all partitions are, as rows of `partition_states`.
    """

    workspace: Workspace
    partition: Partition
    key: ArtifactKey
    inputs: tuple[ArtifactKey, ...]
    draft: Draft
    progress: Progress
    states: Callable[[], pl.DataFrame]

    @property
    def study(self) -> Study:
        """The study."""
        return self.workspace.study

    def open(self, asset: str) -> Artifact:
        """The one input that is of this asset."""
        artifacts = self.open_all(asset)
        if len(artifacts) != 1:
            raise StorageError(f"{self.key.asset} has {len(artifacts)} inputs of {asset}, not one")
        return artifacts[0]

    def open_all(self, asset: str) -> list[Artifact]:
        """All inputs that are of this asset, in the order of their partitions' keys."""
        keys = sorted((key for key in self.inputs if key.asset == asset), key=lambda key: key.partition or "")
        return [self.workspace.store.open(key) for key in keys]


@dataclass(frozen=True)
class Step:
    """A step of the graph. What it computes for a partition depends on nothing but what is named here.

    Args:
        name: of the asset.
        group: of the asset, for people.
        partitioning: its partitions.
        upstream: the steps that it reads.
        code_version: raised whenever the same inputs would give another result.
        computed_by: `module.function` of this package that takes a `Work`, imported when the step runs: torch takes
            seconds to import, and listing the graph must not wait for it.
        kinds: the libraries and formats that the UI shows.
        description: what a person reads in the UI.
        settings: the part of the study that matters to it.
        heavy: whether it runs the model, so that only one should run on a device at a time.
    """

    name: str
    group: str
    partitioning: Partitioning
    upstream: tuple[str, ...]
    code_version: str
    computed_by: str
    kinds: frozenset[str]
    description: str
    settings: Callable[[Study], Mapping[str, Any]] = lambda _study: {}
    heavy: bool = False

    def compute(self, work: Work) -> None:
        """Read the inputs, compute, and fill the draft."""
        module, function = self.computed_by.split(".")
        getattr(import_module(f"influence_assets.pipeline.{module}"), function)(work)
