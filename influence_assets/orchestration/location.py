"""The code location as Dagster loads it: the studies that INFLUENCE_STUDY names."""

from influence_assets.orchestration.definitions import build_definitions, studies_from_environment

defs = build_definitions(studies_from_environment())
