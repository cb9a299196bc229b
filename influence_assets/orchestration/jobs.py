"""Jobs that materialise a study's assets in the usual way: the user chooses the assets and partitions.

A Dagster job can only have assets with the same partitions, so there is one job for each kind of them, and one for each
asset that is computed on request. The job that
brings everything up to date knows the order and what is due; these jobs compute only what is chosen.
"""

from collections.abc import Mapping

import dagster as dg

from influence_assets.assets import asset_graph
from influence_assets.engine.partitions import Partitioning
from influence_assets.orchestration.factory import asset_key
from influence_assets.orchestration.private_api import UnresolvedAssetJobDefinition
from influence_assets.study import Study

KINDS: Mapping[Partitioning, tuple[str, str]] = {
    "shard": ("shards", "of shards: one partition a source file, or a slice of a large one"),
    "query_set": ("query_sets", "of query sets: one partition a query file"),
    "pair": ("pairs", "of pairs: one partition a query set and shard"),
    "none": ("whole", "without partitions"),
}
"""Each kind of partition with its part of a job's name, and its description for people."""


def asset_job_name(study: Study, partitioning: Partitioning) -> str:
    """Return the name of the job of all assets with partitions of a kind."""
    return _name(study, KINDS[partitioning][0])


def _name(study: Study, what: str) -> str:
    return f"{study.name}_materialize_{what}"


def build_asset_jobs(study: Study) -> list[UnresolvedAssetJobDefinition]:
    """Return one job for each kind of partition that assets of the study have, and each asset on request."""
    jobs: dict[tuple[str, str], list[dg.AssetKey]] = {}
    for asset in (each for each in asset_graph() if each.is_shown_in(study)):
        name, described = KINDS.get(asset.partitioned_by, (asset.name, f"of {asset.name}"))
        if not asset.is_due_in(study):  # a job for all assets of a kind must not stop at one that nobody has asked for
            name, described = asset.name, f"of {asset.name}"
        jobs.setdefault((_name(study, name), described), []).append(asset_key(study, asset.name))
    return [
        dg.define_asset_job(
            name,
            dg.AssetSelection.assets(*keys),
            description=f"Materialise some or all assets {described}. Their inputs must be up to date.",
        )
        for (name, described), keys in jobs.items()
    ]
