"""Asset checks of Dagster, built from an asset's own checks."""

from collections.abc import Iterator

import dagster as dg

from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.failed_checks import Findings, look_at
from influence_assets.engine.workspace import Workspace
from influence_assets.orchestration.shown import metadata_values
from influence_assets.storage.artifacts import Artifact


def specs(asset: AssetDefinition, key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """Return the checks of an asset."""
    descriptions = asset.checks.descriptions()
    return [dg.AssetCheckSpec(name, asset=key, description=text) for name, text in descriptions.items()]


def results(asset: AssetDefinition, workspace: Workspace, artifact: Artifact) -> Iterator[dg.AssetCheckResult]:
    """Run each check on the stored artifact and yield its result; checks that fail are outstanding from now on."""
    yield from as_results(look_at(workspace, asset, artifact))


def as_results(findings: Findings) -> Iterator[dg.AssetCheckResult]:
    """Yield findings as Dagster's results."""
    for name, finding in findings:
        severity = dg.AssetCheckSeverity.ERROR if finding.blocking else dg.AssetCheckSeverity.WARN
        yield dg.AssetCheckResult(
            check_name=name, passed=finding.passed, metadata=metadata_values(finding.figures), severity=severity
        )
