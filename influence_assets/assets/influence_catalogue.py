"""The asset `influence_catalogue`: the DuckDB file for queries in SQL."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from influence_assets.engine.catalogue import load
from influence_assets.engine.checks import Finding, Opener
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import ALL_PUBLISHED, AssetDefinition, CostModel, KeyAndInputs, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Location, Shown, Table
from influence_assets.engine.versions import Versions
from influence_assets.engine.workspace import CATALOGUE, Workspace
from influence_assets.errors import InputError
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.manifest import ArtifactKey, Manifest
from influence_assets.study import Study

VIOLATIONS_SHOWN = 20
GRAINS = "every_grain_holds"
"""All checks `grain_of_*` as one, because reporting each of them costs more than running it."""


class _OfAGeneration:
    """The version rule: everything of the current generation, and what exists of the one before it and of members."""

    def key_and_inputs(self, versions: Versions, asset: AssetDefinition, partition: Partition) -> KeyAndInputs | None:
        """Return the key and inputs of the load for the study as it is now."""
        inputs = versions.inputs(asset, partition)
        if inputs is None:
            return None
        inputs += self._previous(versions)
        inputs += dict.fromkeys(key for member in versions.members for key in self._scored(member))
        tombstones = versions.workspace.tombstones.select("shard_id", "document_id", "reason").rows()
        return versions.key_from(asset, partition, inputs, tombstones=tombstones), tuple(inputs)

    def frozen_inputs(self, _asset: AssetDefinition, _study: Study) -> tuple[str, ...]:
        """Return no inputs, because everything new belongs in the tables."""
        return ()

    def _previous(self, versions: Versions) -> list[ArtifactKey]:
        """Return the previous generation's curvature, and its scores of sequences and queries that have not changed."""
        if (generation := versions.previous_generation) is None:
            return []
        return self._scored(Versions(versions.workspace, pinned=generation))

    def _scored(self, versions: Versions) -> list[ArtifactKey]:
        """Return a generation's curvature and those of its scores and self-influences that are stored."""
        graph = versions.workspace.graph
        scored, curvature = ("influence_scores", "self_influence"), versions.key(graph["curvature"], Partition())
        places = [(graph[name], partition) for name in scored for partition in versions.partitions(graph[name])]
        keys = [versions.key(asset, partition) for asset, partition in places]
        held = [key for key in keys if key is not None and versions.holds(key)]
        return [] if curvature is None or not versions.holds(curvature) else [curvature, *held]


def _compute(work: Work) -> None:
    """Load the study's artifacts, and the manifests of everything that they were computed from."""
    _refuse_shared_ids(work)
    workspace = work.workspace
    change, generation = load(workspace, work.key, work.inputs, work.states())
    work.draft.summarise(
        generation_id=generation,
        loaded_artifacts=change.loaded,
        removed_artifacts=change.removed,
        unchanged_artifacts=change.unchanged,
        inserted_rows=dict(change.rows),
        catalogue_bytes=workspace.catalogue.stat().st_size,
        content_version=change.content_version,
    )


def _refuse_shared_ids(work: Work) -> None:
    """Raise if two queries have the same id, because query sets that were computed separately can meet here."""
    queries = pl.concat(artifact.table("queries") for artifact in work.open_all("query_gradients"))
    shared = queries.filter(pl.col("query_id").is_duplicated()).sort("query_id", "query_set_id").head(2).collect()
    if shared.height:
        one, other = (
            f"{work.workspace.query_file(row['query_set_id']).url}, row {row['source_row']}"
            for row in shared.iter_rows(named=True)
        )
        problem = f"query_id {shared['query_id'][0]!r} is that of {other}, too"
        raise InputError(one, problem, "Give each row a query_id of its own, and each question once.")


class _SqlChecks:
    """The checks of `sql/checks`, each a query for rows that violate it."""

    def descriptions(self) -> Mapping[str, str]:
        """Return the purpose of each check by its name; the checks of grains count as one."""
        from influence_assets.storage.catalogue.statements import statements

        described = {_group(name): statement.purpose for name, statement in statements("checks").items()}
        described[GRAINS] = "No two rows of a table have the same key."
        return described

    def findings(self, artifact: Artifact, _open: Opener) -> Iterator[tuple[str, Finding]]:
        """Run the checks on the published file and yield what they find."""
        from influence_assets.storage.catalogue import run_checks

        for name, violations in _grouped(run_checks(_file(artifact))).items():
            figures = {"violations": Table(violations.head(VIOLATIONS_SHOWN)), "count": violations.height}
            yield name, Finding(violations.is_empty(), figures)


def _group(name: str) -> str:
    return GRAINS if name.startswith("grain_of_") else name


def _grouped(violations: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Return the violations of each check; those of all grains are joined, with the names of their checks."""
    grains = [
        rows.with_columns(pl.lit(name).alias("check"))
        for name, rows in violations.items()
        if _group(name) == GRAINS and not rows.is_empty()
    ]
    others = {name: rows for name, rows in violations.items() if _group(name) != GRAINS}
    return others | {GRAINS: pl.concat(grains, how="diagonal_relaxed") if grains else pl.DataFrame()}


def _is_current(workspace: Workspace, manifest: Manifest) -> bool:
    """Return whether the published file still has the content that this load gave it."""
    return bool(workspace.catalogue_version() == manifest.summary["content_version"])


def _cost(sizes: Any, _partition: Partition) -> Cost:
    return Cost(bytes=None, amount=sizes.all_sequences())


def _file(artifact: Artifact) -> Any:
    return artifact.local_root / CATALOGUE


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    rows: Mapping[str, int] = artifact.manifest.summary["inserted_rows"]
    tables: Sequence[str] = list(rows)
    loaded = artifact.manifest.summary["loaded_artifacts"]
    return {
        "in_short": f"{loaded:,} artifacts loaded, {sum(rows.values()):,} rows inserted.",
        "path": Location(_file(artifact)),
        "inserted": Table(pl.DataFrame({"table": tables, "rows": list(rows.values())})),
    }


ASSET = AssetDefinition(
    name="influence_catalogue",
    group="catalogue",
    description=(
        "The DuckDB file that answers in SQL: documents, sequences, queries, scores and the lineage of every row. "
        "Loaded in one transaction and published without blocking a reader. The previous generation's scores are kept "
        "beside the current ones for comparison."
    ),
    kinds=frozenset({"duckdb"}),
    inputs=ALL_PUBLISHED,
    reads=("corpus", "questions"),
    code_version="2",
    compute=_compute,
    frozen=_OfAGeneration(),
    is_current=_is_current,
    is_catalogue=True,
    cost=CostModel(partition=_cost),
    checks=_SqlChecks(),
    shown=_shown,
    hidden=frozenset({"inserted_rows"}),
    source_change=lambda _workspace, _partition, _last: "which documents are gone changed",
    damage="its file is lost, damaged or of another time",
)
