"""Makes the assets of a study from the steps of the graph: one thin asset a step."""

import dagster as dg

from influence_assets.assets import asset_graph
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.materialise import Outcome, materialise
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.orchestration import checks
from influence_assets.orchestration.metadata import metadata
from influence_assets.orchestration.partitions import Partitions
from influence_assets.orchestration.provenance import code_version, frozen_tags, provenance_tags, upstream_names
from influence_assets.orchestration.session import Session, resource_key
from influence_assets.study import Study

HEAVY_TAG = {"influence/device": "in_use"}
"""The executor runs one step at a time that carries this: two torch processes on one set of cores get in their way."""


class Generation(dg.Config):
    """Settings of one materialization of `eigenbases`."""

    new_generation: bool = False


def asset_key(study: Study, step: str) -> dg.AssetKey:
    """The key of a step's asset: the study's name and the step's."""
    return dg.AssetKey([study.name, step])


def build_assets(study: Study) -> list[dg.AssetsDefinition]:
    """All assets of a study."""
    partitions = Partitions.of(study)
    return [_asset(study, step, partitions) for step in asset_graph()]


def _asset(study: Study, step: AssetDefinition, partitions: Partitions) -> dg.AssetsDefinition:
    key = asset_key(study, step.name)

    def run(context: dg.AssetExecutionContext, *, new_generation: bool) -> dg.MaterializeResult[None]:
        session: Session = getattr(context.resources, resource_key(study))
        versions = Versions(session.versions.workspace, fit_another=True) if new_generation else session.versions
        partition = Partition.parse(step.partitioned_by, context.partition_key if context.has_partition_key else None)
        progress = session.progress(context, step, partition)
        outcome = materialise(versions, step, partition, run_id=context.run_id, progress=progress)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(outcome.artifact.key.data_version),
            metadata=metadata(step, outcome.artifact, computed=outcome.computed),
            check_results=list(checks.results(step, versions.workspace, outcome.artifact)),
            tags=frozen_tags(step, study),
        )

    def plain(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster compares it
        return run(context, new_generation=False)

    def configured(context: dg.AssetExecutionContext, config: Generation) -> dg.MaterializeResult:  # type: ignore[type-arg]
        return run(context, new_generation=config.new_generation)

    return dg.asset(
        key=key,
        deps=_dependencies(study, step, partitions),
        group_name=step.group,
        kinds=set(step.kinds),
        description=step.description,
        code_version=code_version(step, study),
        partitions_def=partitions.definition(step.partitioned_by),
        check_specs=checks.specs(step, key),
        required_resource_keys={resource_key(study)},
        op_tags=HEAVY_TAG if step.runs_model else None,
    )(configured if step.begins_generation else plain)


def materialization(
    study: Study,
    step: AssetDefinition,
    partition: Partition,
    outcome: Outcome,
    versions: Versions,
    instance: dg.DagsterInstance,
) -> dg.AssetMaterialization:
    """What Dagster should know of a partition that was computed outside of its asset's own run."""
    version = outcome.artifact.key.data_version
    return dg.AssetMaterialization(
        asset_key(study, step.name),
        partition=partition.key,
        metadata=metadata(step, outcome.artifact, computed=outcome.computed),
        tags=provenance_tags(step, study, version, versions, instance),
    )


def _dependencies(study: Study, step: AssetDefinition, partitions: Partitions) -> list[dg.AssetDep]:
    """The assets that a step reads, each with the partitions of it that it reads."""
    deps = []
    for name in upstream_names(step, study):
        if name in asset_graph():
            mapping = partitions.mapping(asset_graph()[name].partitioned_by, step.partitioned_by)
        else:
            mapping = dg.IdentityPartitionMapping() if name in ("source_files", "query_files") else None
        deps.append(dg.AssetDep(asset_key(study, name), partition_mapping=mapping))
    return deps
