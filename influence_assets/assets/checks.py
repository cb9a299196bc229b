"""Asset checks: what `pipeline.checks` finds of an artifact, and every SQL file of `sql/checks` of the catalogue."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from influence_assets.assets.metadata import table
from influence_assets.pipeline.checks import CHECKS
from influence_assets.pipeline.steps import Step
from influence_assets.pipeline.workspace import Workspace
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.catalogue import run_checks
from influence_assets.storage.statements import statements

VIOLATIONS_SHOWN = 20


def specs(step: Step, key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """The checks of a step's asset."""
    if step.name == "influence_catalogue":
        described = {name: statement.purpose for name, statement in statements("checks").items()}
    else:
        described = {check.name: check.description for check in CHECKS.get(step.name, ())}
    return [dg.AssetCheckSpec(name, asset=key, description=text) for name, text in described.items()]


def results(step: Step, workspace: Workspace, artifact: Artifact) -> Iterator[dg.AssetCheckResult]:
    """The outcome of each check, looked up in what is stored."""
    if step.name == "influence_catalogue":
        for name, violations in run_checks(workspace.catalogue).items():
            shown: dict[str, Any] = {"violations": table(violations.head(VIOLATIONS_SHOWN)), "count": violations.height}
            yield dg.AssetCheckResult(check_name=name, passed=violations.is_empty(), metadata=shown)
        return
    for check in CHECKS.get(step.name, ()):
        finding = check.look(artifact, workspace.store.open)
        severity = dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN
        yield dg.AssetCheckResult(
            check_name=check.name, passed=finding.passed, metadata=dict(finding.figures), severity=severity
        )
