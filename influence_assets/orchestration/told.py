"""What Dagster was told last: the data versions in its event log, partition by partition."""

from collections.abc import Mapping

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG, extract_data_version_from_entry

from influence_assets.engine.fingerprint import WHOLE

__all__ = ["DATA_VERSION_TAG", "told_versions"]


def told_versions(instance: dg.DagsterInstance, key: dg.AssetKey, kind: dg.DagsterEventType) -> Mapping[str, str]:
    """The data version that was last told of each partition of an asset, by its key; of one without any, by "".

    Args:
        instance: that was told.
        key: of the asset.
        kind: whether it was observed or materialized.
    """
    tags = instance.event_log_storage.get_latest_tags_by_partition(key, kind, [DATA_VERSION_TAG])
    if tags:
        return {partition: said[DATA_VERSION_TAG] for partition, said in tags.items()}
    is_source = kind == dg.DagsterEventType.ASSET_OBSERVATION
    record = instance.get_latest_data_version_record(key, is_source=is_source)
    version = None if record is None else extract_data_version_from_entry(record.event_log_entry)
    return {} if version is None else {WHOLE: version.value}
