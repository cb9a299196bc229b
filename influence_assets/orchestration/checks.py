"""Asset checks, made from the checks of each asset's definition."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.shown import Table
from influence_assets.engine.workspace import Workspace
from influence_assets.orchestration.metadata import table
from influence_assets.storage.artifacts import Artifact


def specs(asset: AssetDefinition, key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """Return the check specifications of an asset."""
    return [dg.AssetCheckSpec(name, asset=key, description=text) for name, text in asset.checks.descriptions().items()]


def results(asset: AssetDefinition, workspace: Workspace, artifact: Artifact) -> Iterator[dg.AssetCheckResult]:
    """Yield the outcome of each check, looked up in what is stored."""
    for name, finding in asset.checks.findings(artifact, workspace.store.open):
        severity = dg.AssetCheckSeverity.ERROR if finding.blocking else dg.AssetCheckSeverity.WARN
        figures: dict[str, Any] = {
            figure: table(value.rows) if isinstance(value, Table) else value
            for figure, value in finding.figures.items()
        }
        yield dg.AssetCheckResult(check_name=name, passed=finding.passed, metadata=figures, severity=severity)
