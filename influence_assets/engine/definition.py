"""What an asset is: everything that is particular to it, in one definition that the rest of the package reads.

Nothing in `engine`, `orchestration`, `upkeep` or `forecast` names an asset (`tests/test_architecture.py`). Code there
that must treat assets differently reads a property that is defined here, such as `holds_text` or `frozen`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import polars as pl

from influence_assets.engine.checkpoints import Checkpoints
from influence_assets.engine.checks import NO_CHECKS, Checks
from influence_assets.engine.costs import Cost
from influence_assets.engine.partitions import Partition, Partitioning
from influence_assets.engine.shown import Shown
from influence_assets.errors import StorageError
from influence_assets.methods.method import ScoredMethod
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.drafts import Draft
from influence_assets.storage.artifacts.manifest import ArtifactKey, Manifest
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.engine.versions import Versions
    from influence_assets.engine.workspace import Workspace

Source = Literal["source_files", "query_files", "model_files", "optimizer_file", "corpus", "questions"]
"""A source outside the store. `source_files` and `query_files` have one file for each partition; `corpus` and
`questions` are all of them together, which change whenever a file is added, changed or deleted; `model_files` are the
files of `model.path`, and `optimizer_file` is that of `model.optimizer`."""

KeyAndInputs = tuple[ArtifactKey, tuple[ArtifactKey, ...]]
"""A partition's artifact, and the artifacts that it is computed from."""

Progress = Callable[[int, int | None], None]
"""Called with the number of sequences (or steps) that are done, and of how many if that is known."""

ALL_PUBLISHED = ("*published*",)
"""As `inputs`: every asset of the graph that is published."""

METHODS = "*methods*"
"""Among `inputs`: every asset of the graph that is an attribution method of its own."""


@dataclass(frozen=True)
class Work:
    """One partition of one asset, about to be computed.

    Args:
        asset: its definition.
        workspace: the study and its store.
        partition: the partition to compute.
        key: its key in the store.
        inputs: the artifacts that it is computed from.
        draft: where its results go.
        progress: called with how far it is.
        states: looks up the state of all partitions, as rows of `partition_states`.
        checkpoints: what a killed run left of this computation, and where to write what it has come to.
    """

    asset: "AssetDefinition"
    workspace: "Workspace"
    partition: Partition
    key: ArtifactKey
    inputs: tuple[ArtifactKey, ...]
    draft: Draft
    progress: Progress
    states: Callable[[], pl.DataFrame]
    checkpoints: Checkpoints

    @property
    def study(self) -> Study:
        """The study."""
        return self.workspace.study

    def open(self, asset: str) -> Artifact:
        """Open the one input that is of this asset.

        Raises:
            StorageError: there is not exactly one.
        """
        artifacts = self.open_all(asset)
        if len(artifacts) != 1:
            raise StorageError(f"{self.key.asset} has {len(artifacts)} inputs of {asset}, not one")
        return artifacts[0]

    def open_all(self, asset: str) -> list[Artifact]:
        """Open all inputs that are of this asset, in the order of their partitions' keys."""
        keys = sorted((key for key in self.inputs if key.asset == asset), key=lambda key: key.partition or "")
        return [self.workspace.store.open(key) for key in keys]


class VersionRule(Protocol):
    """Decides an asset's version where that is not simply the version of its inputs: what is frozen, and when."""

    def key_and_inputs(
        self, versions: "Versions", asset: "AssetDefinition", partition: Partition
    ) -> KeyAndInputs | None:
        """Return the partition's key and what it is computed from; None while it is not known."""
        ...

    def frozen_inputs(self, asset: "AssetDefinition", study: Study) -> tuple[str, ...]:
        """Return the inputs that do not outdate the asset when they change or more of them arrive."""
        ...


@dataclass(frozen=True, kw_only=True)
class SharedPass:
    """Computes several assets of a shard from one pass of the model over it.

    Args:
        name: for people.
        compute: fills the drafts of outstanding partitions of one shard, some of which may be inputs of others.
        operations: counts the operations of one pass over a shard that computes these partitions.
        largest_held_bytes: bytes in memory of `Measurement.held` inputs that one pass holds at a time.
    """

    name: str
    compute: Callable[[Sequence[Work]], None]
    operations: Callable[[Any, str, Sequence[tuple["AssetDefinition", Partition]]], float]
    largest_held_bytes: int


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What an asset wants of a shared pass.

    Args:
        shared_pass: the pass that it can be computed by, together with others.
        join: takes part in a pass: given the work and the pass's context, returns what the pass drives. The
            pass and its assets agree on their types.
        fits: whether it uses the labels of the curvature, which take a backward pass of their own if they are sampled.
        joins: whether a partition can take part.
        needs_pass: whether computing a partition takes a pass at all, given a study's sizes.
        held: assets among its inputs that the pass holds in memory.
        held_bytes: the bytes that an artifact of these then takes under a study's settings, by its manifest.
        layer_bytes: returns the bytes that it holds of a layer during the pass, beside the layer's curvature and
            vectors, given a study's sizes and the layer.
        vectors: returns the vectors that it multiplies each layer's gradients by, given a study's sizes.
        operations: counts what computing a partition takes beside the pass itself, given a study's sizes
            (`assets.study_sizes.StudySizes`), the partition, and the names of all assets that take part in the pass.
    """

    shared_pass: SharedPass
    join: Callable[[Work, Any], Any]
    fits: bool = False
    joins: Callable[["Versions", Partition], bool] = lambda _versions, _partition: True
    needs_pass: Callable[[Any, Partition], bool] = lambda _sizes, _partition: True
    held: tuple[str, ...] = ()
    held_bytes: Callable[[Study, Manifest], int] = lambda _study, manifest: manifest.bytes
    layer_bytes: Callable[[Any, Any], int] = lambda _sizes, _layer: 0
    vectors: Callable[[Any], Sequence[Any]] = lambda _sizes: ()
    operations: Callable[[Any, Partition, frozenset[str]], float] = lambda _sizes, _partition, _names: 0.0


@dataclass(frozen=True, kw_only=True)
class AtOnce:
    """Computes several partitions of one asset at once, where that takes less time than one after the other.

    Args:
        most: how many partitions can be computed at once, given a study's versions; 1: each is computed by itself.
        compute: fills the drafts of several partitions as `AssetDefinition.compute` fills each, but for rounding. If it
            fails, each is computed by itself.
    """

    most: Callable[["Versions"], int]
    compute: Callable[[Sequence[Work]], None]


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """What an asset costs, as a function of a study's sizes (`assets.study_sizes.StudySizes`).

    Args:
        partition: the cost of one partition; of an asset that a shared pass computes, without the pass.
        memory: the largest memory while it runs, in bytes; None where the model is not run.
        like: another asset that does the same work, whose measured speed it is taken to have until its own is known.
    """

    partition: Callable[[Any, Partition], Cost]
    memory: Callable[[Any], int | None] = lambda _sizes: None
    like: str | None = None


def _no_cost(_sizes: Any, _partition: Partition) -> Cost:
    return Cost(bytes=None)


@dataclass(frozen=True, kw_only=True)
class AssetDefinition:
    """An asset. What it computes for a partition depends on nothing but what is named here.

    Args:
        name: the asset's name.
        group: the part of the graph that it belongs to.
        description: what a person reads about it.
        kinds: the libraries and formats that the UI shows.
        partitioned_by: what its partitions are.
        listed: the names of its partitions under a study's settings, if it lists them itself.
        inputs: the assets that it reads.
        reads: what it reads outside the store.
        uses: whether, under a study's settings, it reads one of `inputs` or `reads`, given by name.
        code_version: raised whenever the same inputs would give another result.
        settings: the settings of the study that enter its data version.
        source_content: what of its outside source enters its version.
        compute: reads the inputs, computes, and fills the draft. Imports what is slow to import, such as torch, itself.
        frozen: the rule for its version, if it is frozen; None: its version follows from its inputs.
        identity: a name, and a function that returns the content of its manifest that enters its readers' versions,
            such as the hash of the weights of a trained model, which its own version does not determine.
        settles: returns a study with what it leaves open, such as `auto`, as this asset's only artifact has settled it;
            the settings of its readers are taken from that.
        is_current: returns whether an artifact that is held is still valid; None: it always is.
        needed_until: an asset; once that is up to date, artifacts of this one are no longer needed, and are reduced to
            their manifests.
        on_request: whether it is computed only when somebody asks for it: runs that bring a study up to date leave it
            out, and its readers read what there is of it.
        is_requested: whether a study's settings ask for all partitions of an asset that is on request.
        only_by_settings: whether nothing but a study's settings can ask for it, such as those that list a method:
            Dagster has no such asset in a study whose settings do not.
        method: the attribution method whose scores it holds, if it is one of its own: `method_rows.py` writes them.
        begins_generation: whether it can be computed again on request, as another generation.
        reports_drift: whether its summary says that a new generation is due (`exceeds`).
        holds_text: whether it holds text, tokens or scores of single sequences, so that it goes with a withdrawn
            document. What is merged over many documents is not.
        document_ids: the ids of the documents that an artifact holds: of the asset that brings text into the store.
        document_count: how many documents an artifact holds, by its manifest: of the same asset.
        is_published: whether its tables are loaded into the catalogue.
        is_catalogue: whether it is the catalogue itself, so that it is the last of every run.
        is_of_members: whether each member of an ensemble has it, and what it is computed from, in a version of its own.
        is_shared_by_members: whether the members of an ensemble have it in the first one's version, because it depends
            on what all of them have in common, such as the tokenizer.
        measures: what it wants of a shared pass; None: it is computed alone.
        at_once: how several of its partitions are computed at once; None: one after the other.
        runs_model: whether it runs the model: one such computation at a time uses a device.
        cost: what it will cost.
        checks: what must hold of its artifacts.
        shown: what a person is shown of an artifact beside its figures.
        hidden: entries of its summary that are not for people.
        source_change: the cause that `influence status` gives when neither code nor settings nor inputs changed.
        damage: the cause that it gives when an artifact is no longer held.
        sql: a folder with `schema/`, `load/`, `views/`, `checks/` and `cookbook/` of its own tables,
            beside the package's `sql/`.
    """

    name: str
    group: str
    description: str
    kinds: frozenset[str] = frozenset()
    partitioned_by: Partitioning = "none"
    listed: Callable[[Study], Sequence[str]] = lambda _study: ()
    inputs: tuple[str, ...] = ()
    reads: tuple[Source, ...] = ()
    uses: Callable[[Study, str], bool] = lambda _study, _name: True
    code_version: str
    settings: Callable[[Study], Mapping[str, Any]] = lambda _study: {}
    source_content: Callable[["Workspace", Partition], Mapping[str, Any]] = lambda _workspace, _partition: {}
    compute: Callable[[Work], None]
    frozen: VersionRule | None = None
    identity: tuple[str, Callable[[Manifest], Any]] | None = None
    settles: Callable[[Study, Manifest], Study] | None = None
    is_current: Callable[["Workspace", Manifest], bool] | None = None
    needed_until: str | None = None
    on_request: bool = False
    is_requested: Callable[[Study], bool] = lambda _study: False
    only_by_settings: bool = False
    method: ScoredMethod | None = None
    begins_generation: bool = False
    reports_drift: bool = False
    holds_text: bool = False
    document_ids: Callable[[Artifact], Iterable[str]] | None = None
    document_count: Callable[[Manifest], int] = lambda _manifest: 1
    is_published: bool = False
    is_catalogue: bool = False
    is_of_members: bool = False
    is_shared_by_members: bool = False
    measures: Measurement | None = None
    at_once: AtOnce | None = None
    runs_model: bool = False
    cost: CostModel = CostModel(partition=_no_cost)
    checks: Checks = NO_CHECKS
    shown: Callable[[Artifact], Mapping[str, Shown]] = lambda _artifact: {}
    hidden: frozenset[str] = frozenset()
    source_change: Callable[["Workspace", Partition, Manifest], str] = lambda _workspace, _partition, _manifest: (
        "what it was read from changed"
    )
    damage: str = "its files are damaged"
    sql: Path | None = field(default=None)

    def is_due_in(self, study: Study) -> bool:
        """Return whether runs that bring a study up to date compute it, unasked or because its settings ask for it."""
        return not self.on_request or self.is_requested(study)

    def is_shown_in(self, study: Study) -> bool:
        """Return whether Dagster has it in a study."""
        return not self.only_by_settings or self.is_due_in(study)

    def inputs_of(self, study: Study) -> tuple[str, ...]:
        """Return the assets that it reads under a study's settings."""
        return tuple(name for name in self.inputs if self.uses(study, name))

    def frozen_inputs_of(self, study: Study) -> tuple[str, ...]:
        """Return the inputs that do not outdate it when they change or more of them arrive."""
        return () if self.frozen is None else self.frozen.frozen_inputs(self, study)

    def reads_of(self, study: Study) -> tuple[Source, ...]:
        """Return the outside sources that it reads under a study's settings."""
        return tuple(name for name in self.reads if self.uses(study, name))
