"""Asset checks of Dagster, built from an asset's own checks."""

from collections.abc import Iterator

import dagster as dg

from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.workspace import Workspace
from influence_assets.orchestration.shown import metadata_values
from influence_assets.storage.artifacts import Artifact


def specs(asset: AssetDefinition, key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """Return the checks of an asset."""
    descriptions = asset.checks.descriptions()
    return [dg.AssetCheckSpec(name, asset=key, description=text) for name, text in descriptions.items()]


def results(asset: AssetDefinition, workspace: Workspace, artifact: Artifact) -> Iterator[dg.AssetCheckResult]:
    """Run each check on the stored artifact and yield its result."""
    for name, finding in asset.checks.findings(artifact, workspace.store.open):
        severity = dg.AssetCheckSeverity.ERROR if finding.blocking else dg.AssetCheckSeverity.WARN
        yield dg.AssetCheckResult(
            check_name=name, passed=finding.passed, metadata=metadata_values(finding.figures), severity=severity
        )
