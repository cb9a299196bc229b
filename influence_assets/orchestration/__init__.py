"""The Dagster layer, built from the assets' definitions: assets, partitions, checks, jobs, the sensor, and a component.

Nothing here depends on an asset's name, and only this part of the package and the command import Dagster.
"""

from influence_assets.orchestration.component import InfluenceStudy

__all__ = ["InfluenceStudy"]
