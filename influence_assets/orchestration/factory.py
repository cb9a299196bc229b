"""Dagster's assets of a study, built from the graph: each computes one partition and reports the result."""

from typing import Any

import dagster as dg

from influence_assets.assets import asset_graph
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.graph import AssetGraph
from influence_assets.engine.materialise import Outcome, materialise
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.orchestration import checks
from influence_assets.orchestration.partitions import Partitions
from influence_assets.orchestration.provenance import code_version, frozen_tags, provenance_tags, upstream_names
from influence_assets.orchestration.session import Session, resource_key
from influence_assets.orchestration.shown import metadata
from influence_assets.orchestration.sources import SOURCES
from influence_assets.study import Study

RUNS_MODEL_TAG = {"influence/device": "in_use"}
"""The executor runs only one step with this tag at a time, because two torch processes on the same cores are slow."""


class Generation(dg.Config):
    """Settings of one materialization of an asset that begins a generation."""

    new_generation: bool = False


def asset_key(study: Study, name: str) -> dg.AssetKey:
    """Return an asset's key: the study's name and the asset's."""
    return dg.AssetKey([study.name, name])


def build_assets(study: Study) -> list[dg.AssetsDefinition]:
    """Return all assets of a study, without those of methods that it does not list."""
    graph, partitions = asset_graph(), Partitions.of(study)
    return [_asset(study, asset, graph, partitions) for asset in graph if asset.is_shown_in(study)]


def _asset(study: Study, asset: AssetDefinition, graph: AssetGraph, partitions: Partitions) -> dg.AssetsDefinition:
    key = asset_key(study, asset.name)

    def run(context: dg.AssetExecutionContext, *, new_generation: bool) -> dg.MaterializeResult[None]:
        session: Session = getattr(context.resources, resource_key(study))
        versions = Versions(session.versions.workspace, fit_another=True) if new_generation else session.versions
        partition = Partition.parse(asset.partitioned_by, context.partition_key if context.has_partition_key else None)
        progress = session.progress(context, asset, partition)
        if new_generation:
            # What the present generation was made of is not kept, and it is another's that is needed.
            for upstream in (graph[name] for name in asset.inputs_of(study)):
                materialise(versions, upstream, Partition(), run_id=context.run_id, progress=progress)
        outcome = materialise(versions, asset, partition, run_id=context.run_id, progress=progress)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(outcome.artifact.key.data_version),
            metadata=metadata(asset, outcome.artifact, computed=outcome.computed),
            check_results=list(checks.results(asset, versions.workspace, outcome.artifact)),
            tags=frozen_tags(asset, study),
        )

    def plain(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster compares it
        return run(context, new_generation=False)

    def configured(context: dg.AssetExecutionContext, config: Generation) -> dg.MaterializeResult:  # type: ignore[type-arg]
        return run(context, new_generation=config.new_generation)

    return dg.asset(
        key=key,
        deps=_dependencies(study, asset, graph, partitions),
        group_name=asset.group,
        kinds=set(asset.kinds),
        description=asset.description,
        code_version=code_version(asset, study),
        owners=list(study.automation.owners),
        metadata=_code_references(asset),
        partitions_def=partitions.definition(asset.partitioned_by, asset.listed(study)),
        check_specs=checks.specs(asset, key),
        required_resource_keys={resource_key(study)},
        # What begins a generation by hand measures first what it is made of.
        op_tags=RUNS_MODEL_TAG if asset.runs_model or asset.begins_generation else None,
    )(configured if asset.begins_generation else plain)


def _code_references(asset: AssetDefinition) -> dict[str, dg.MetadataValue[Any]]:
    """Return a reference to the asset's own file, for the UI, which would otherwise show this file for every asset."""
    code = getattr(asset.compute, "__code__", None)
    if code is None:
        return {}
    reference = dg.LocalFileCodeReference(file_path=code.co_filename, line_number=code.co_firstlineno, label=asset.name)
    return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference])}


def materialization(
    study: Study,
    asset: AssetDefinition,
    partition: Partition,
    outcome: Outcome,
    versions: Versions,
    instance: dg.DagsterInstance,
) -> dg.AssetMaterialization:
    """Return the event that Dagster should record for a partition that was computed outside its asset's own step."""
    version = outcome.artifact.key.data_version
    return dg.AssetMaterialization(
        asset_key(study, asset.name),
        partition=partition.key,
        metadata=metadata(asset, outcome.artifact, computed=outcome.computed),
        tags=provenance_tags(asset, study, version, versions, instance),
    )


def _dependencies(study: Study, asset: AssetDefinition, graph: AssetGraph, partitions: Partitions) -> list[dg.AssetDep]:
    """Return the assets and sources that an asset reads, each with the partitions of it that it reads."""
    deps = []
    for name in upstream_names(asset, study):
        upstream = graph[name].partitioned_by if name in graph else SOURCES[name].partitioned_by
        mapping = partitions.mapping(upstream, asset.partitioned_by)
        deps.append(dg.AssetDep(asset_key(study, name), partition_mapping=mapping))
    return deps
