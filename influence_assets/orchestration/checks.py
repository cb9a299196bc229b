"""Asset checks: what `pipeline.checks` finds of an artifact, and every SQL file of `sql/checks` of the catalogue."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import polars as pl

from influence_assets.engine.checks import CHECKS
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.workspace import Workspace
from influence_assets.orchestration.metadata import table
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.catalogue import run_checks
from influence_assets.storage.statements import statements

VIOLATIONS_SHOWN = 20
GRAINS = "every_grain_holds"
"""All of `grain_of_*` together: an event costs Dagster more than the question costs DuckDB."""


def specs(step: AssetDefinition, key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """The checks of a step's asset."""
    if step.name == "influence_catalogue":
        described = {_group(name): statement.purpose for name, statement in statements("checks").items()}
        described[GRAINS] = "No two rows of a table have the same key."
    else:
        described = {check.name: check.description for check in CHECKS.get(step.name, ())}
    return [dg.AssetCheckSpec(name, asset=key, description=text) for name, text in described.items()]


def results(step: AssetDefinition, workspace: Workspace, artifact: Artifact) -> Iterator[dg.AssetCheckResult]:
    """The outcome of each check, looked up in what is stored."""
    if step.name == "influence_catalogue":
        for name, violations in _grouped(run_checks(workspace.catalogue)).items():
            shown: dict[str, Any] = {"violations": table(violations.head(VIOLATIONS_SHOWN)), "count": violations.height}
            yield dg.AssetCheckResult(check_name=name, passed=violations.is_empty(), metadata=shown)
        return
    for check in CHECKS.get(step.name, ()):
        finding = check.look(artifact, workspace.store.open)
        severity = dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN
        yield dg.AssetCheckResult(
            check_name=check.name, passed=finding.passed, metadata=dict(finding.figures), severity=severity
        )


def _group(name: str) -> str:
    return GRAINS if name.startswith("grain_of_") else name


def _grouped(found: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The violations of each check, those of grains together, with the names of their tables."""
    grains = [
        violations.with_columns(pl.lit(name).alias("check"))
        for name, violations in found.items()
        if _group(name) == GRAINS and not violations.is_empty()
    ]
    others = {name: violations for name, violations in found.items() if _group(name) != GRAINS}
    return others | {GRAINS: pl.concat(grains, how="diagonal_relaxed") if grains else pl.DataFrame()}
