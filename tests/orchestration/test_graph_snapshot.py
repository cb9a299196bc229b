"""The asset graph as text, so that a change of it is seen in review.

When a change is meant, write the snapshot anew:

    INFLUENCE_REFRESH=1 python -m pytest tests/orchestration/test_graph_snapshot.py
"""

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from influence_assets.orchestration.definitions import build_definitions
from influence_assets.study import Study

SNAPSHOT = Path(__file__).with_name("graph.txt")
STUDY = {
    "name": "wiki",
    "corpus": {"path": "corpus"},
    "model": {"train": {}},
    "queries": {"path": "queries"},
}


def test_the_graph_is_the_one_that_was_agreed_on():
    found = "\n".join(described(build_definitions([Study.model_validate(STUDY)]))) + "\n"
    if "INFLUENCE_REFRESH" in os.environ:
        SNAPSHOT.write_text(found, encoding="utf-8")
    assert found.splitlines() == SNAPSHOT.read_text(encoding="utf-8").splitlines()


def test_a_model_that_is_brought_waits_for_no_documents():
    brought = Study.model_validate(STUDY | {"model": {"path": "gpt2"}})
    graph = build_definitions([brought]).resolve_asset_graph()
    (parent,) = graph.get(dg.AssetKey(["wiki", "language_model"])).parent_keys
    assert parent == dg.AssetKey(["wiki", "model_files"])
    assert graph.get(parent).is_observable


def described(definitions: dg.Definitions) -> Iterator[str]:
    graph = definitions.resolve_asset_graph()
    for key in sorted(graph.get_all_asset_keys(), key=lambda key: key.path):
        node = graph.get(key)
        yield f"{'source' if node.is_external else 'asset'} {'/'.join(key.path)}"
        yield f"  group {node.group_name}, kinds {', '.join(sorted(node.kinds))}, code version {node.code_version}"
        yield f"  partitions {partitions(node.partitions_def)}"
        for parent in sorted(node.parent_keys, key=lambda key: key.path):
            mapping = node.partition_mappings.get(parent)
            yield f"  reads {parent.path[-1]}{'' if mapping is None else f' by {mapped(mapping)}'}"
        for check in sorted(node.check_keys, key=lambda key: key.name):
            yield f"  check {check.name}"
    for job in sorted(definitions.jobs, key=lambda job: job.name):
        if isinstance(job, dg.JobDefinition):
            names = ", ".join(op.name for op in job.nodes_in_topological_order)
            yield f"job {job.name}: {names}, {job.executor_def.name}"
        else:
            yield f"job {job.name}: {', '.join(sorted(key.path[-1] for key in job.selection.resolve(graph)))}"
    for sensor in sorted(definitions.sensors, key=lambda sensor: sensor.name):
        yield f"sensor {sensor.name} of {', '.join(target.job_name for target in sensor.targets)}"
        yield f"  {sensor.default_status.value}, every {sensor.minimum_interval_seconds} s"
    yield f"executor {definitions.executor.name}"


def partitions(definition: dg.PartitionsDefinition | None) -> str:
    if definition is None:
        return "none"
    if isinstance(definition, dg.MultiPartitionsDefinition):
        return " × ".join(f"{part.name} ({part.partitions_def.name})" for part in definition.partitions_defs)
    if isinstance(definition, dg.StaticPartitionsDefinition):
        keys = definition.get_partition_keys()
        return f"{len(keys)} from {keys[0]} to {keys[-1]}" if keys else "none under these settings"
    return str(definition.name)


def mapped(mapping: dg.PartitionMapping) -> str:
    name = type(mapping).__name__.removesuffix("PartitionMapping")
    dimension = getattr(mapping, "partition_dimension_name", None)
    return name if dimension is None else f"{name}({dimension})"
