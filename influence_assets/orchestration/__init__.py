"""The Dagster side, made of the assets' definitions: assets, partitions, checks, jobs, the sensor, and a component.

Nothing here asks for an asset by name, and no other part of the package but the command knows Dagster.
"""

from influence_assets.orchestration.component import InfluenceStudy

__all__ = ["InfluenceStudy"]
